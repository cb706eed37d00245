"""Mask R-CNN, DeepViT-L, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/deepvit-large_maskrcnn_coco.py --cfg-options model.backbone.init_cfg.checkpoint=PATH
            (weights: see deepvit_maskrcnn_coco.py)
"""

_base_ = "./deepvit_maskrcnn_coco.py"

model = dict(
    backbone=dict(arch="l", global_blocks=(4, 9, 14, 19), init_cfg=dict(checkpoint="deepvit_l.pth"))
)  # blocks 20 to 31 re-attend
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))  # ViTDet's with 32 blocks
