"""Cascade Mask R-CNN, RevCol-S, COCO 2017, 3x multi-scale.

Run:    python tools/train.py configs/revcol-small_cascade-maskrcnn_coco.py   (weights: see revcol_cascade-maskrcnn_coco.py)
"""

_base_ = "./revcol_cascade-maskrcnn_coco.py"

model = dict(backbone=dict(arch="small", drop_path_rate=0.4))
