"""Mask R-CNN, RevColViT-S, COCO 2017, 3x multi-scale.

Run:    python tools/train.py configs/revcol-vit_maskrcnn_coco.py \
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=PATH

Differences from revcol_maskrcnn_coco.py: the levels come from a pyramid, and positions have no weight decay.
"""

_base_ = "./revcol_maskrcnn_coco.py"

model = dict(backbone=dict(type="RevColViT", arch="small"), neck=dict(in_channels=[256] * 4))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.0))))
