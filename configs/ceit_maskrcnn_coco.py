"""Mask R-CNN, CeiT-S, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/ceit_maskrcnn_coco.py --cfg-options model.backbone.init_cfg.checkpoint=PATH
            (weights: on Google Drive, linked in the readme of coeusguo/ceit)

Differences from vit_maskrcnn_coco.py: batch norms are frozen, since a GPU holds four images only.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    backbone=dict(type="CeiT", arch="small", norm_eval=True, init_cfg=dict(checkpoint="ceit_small.pth")),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={".bn": dict(decay_mult=0.0)}))
