"""Mask R-CNN, a small CaiT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/train.py configs/cait_maskrcnn_sample.py
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_maskrcnn_sample.py"

# Heads of 48 channels, as in every CaiT; 0.1 is the paper's start of layer scales up to 18 blocks.
model = dict(backbone=dict(type="CaiT", arch=dict(num_heads=4, layer_scale_init_value=0.1)))
