"""Mask R-CNN, a small DeiT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/train.py configs/deit_maskrcnn_sample.py
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_maskrcnn_sample.py"

model = dict(backbone=dict(type="DeiT"))
