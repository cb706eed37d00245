"""Mask R-CNN, CaiT-XXS24, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/cait-xxs24_maskrcnn_coco.py
"""

_base_ = "./cait_maskrcnn_coco.py"

model = dict(backbone=dict(arch="xxs24", init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/deit/XXS24_224.pth")))
