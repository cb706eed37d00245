"""Mask R-CNN, a small CeiT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/train.py configs/ceit_maskrcnn_sample.py
Result: not yet run here.
"""

_base_ = "./vit_maskrcnn_sample.py"

model = dict(backbone=dict(type="CeiT"))
