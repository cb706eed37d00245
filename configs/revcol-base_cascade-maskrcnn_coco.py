"""Cascade Mask R-CNN, RevCol-B, COCO 2017, 3x multi-scale.

Run:    python tools/train.py configs/revcol-base_cascade-maskrcnn_coco.py   (weights: see revcol_cascade-maskrcnn_coco.py)

Weights of ImageNet-22k: --cfg-options optim_wrapper.optimizer.lr=1e-4, half the rate, as the authors.
"""

_base_ = "./revcol_cascade-maskrcnn_coco.py"

model = dict(backbone=dict(arch="base", drop_path_rate=0.4), neck=dict(in_channels=[72, 144, 288, 576]))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
