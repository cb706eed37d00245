"""Cascade Mask R-CNN, RevCol-L, COCO 2017, 3x multi-scale.

Run:    python tools/train.py configs/revcol-large_cascade-maskrcnn_coco.py   (weights: see revcol_cascade-maskrcnn_coco.py)
"""

_base_ = "./revcol_cascade-maskrcnn_coco.py"

model = dict(backbone=dict(arch="large", drop_path_rate=0.5), neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
