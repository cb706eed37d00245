"""Mask R-CNN, DeiT-B distilled, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/deit_maskrcnn_coco.py

Schedule, augmentation and optimiser are those of vit_maskrcnn_coco.py; DeiT-B has the same trunk and other weights.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    backbone=dict(
        type="DeiT",
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/deit/deit_base_distilled_patch16_224-df68dfff.pth"),
    )
)
