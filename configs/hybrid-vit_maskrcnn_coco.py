"""Mask R-CNN, R50+ViT-B/16, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/hybrid-vit_maskrcnn_coco.py

Differences from vit_maskrcnn_coco.py: normalisation is that of the weights, and the pyramid is the network's own (two
stages of the ResNet, two blocks) with the stock FPN behind it.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type="HybridViT",
        arch="r50-base",
        img_size=384,  # of the weights
        pyramid="taps",
        init_cfg=dict(
            checkpoint="https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/jx_vit_base_resnet50_384-9fd3c705.pth"
        ),
    ),
    neck=dict(_delete_=True, type="FPN", in_channels=[256, 512, 768, 768], out_channels=256, num_outs=5),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={".norm": dict(decay_mult=0.0)}))  # the ResNet's, too
