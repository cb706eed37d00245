"""Mask R-CNN, DeiT-S distilled, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/deit-small_maskrcnn_coco.py
"""

_base_ = "./deit_maskrcnn_coco.py"

model = dict(
    backbone=dict(
        arch="small",
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/deit/deit_small_distilled_patch16_224-649709d9.pth"),
    )
)
