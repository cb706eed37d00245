"""UPerNet, R50+ViT-B/16, ADE20K, crops of 512, 160k iterations, MAE's recipe.

Run:    python tools/train.py configs/hybrid-vit_upernet_ade20k.py

Differences from vit_upernet_ade20k.py: normalisation is that of the weights, and the pyramid is the network's own (two
stages of the ResNet, two blocks).
"""

_base_ = "./vit_upernet_ade20k.py"

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type="HybridViT",
        arch="r50-base",
        img_size=384,  # of the weights
        taps=(8, 11),
        init_cfg=dict(
            checkpoint="https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/jx_vit_base_resnet50_384-9fd3c705.pth"
        ),
    ),
    decode_head=dict(in_channels=[256, 512, 768, 768]),
)
