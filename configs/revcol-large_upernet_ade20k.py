"""UPerNet, RevCol-L, ADE20K, crops of 640, 160k iterations: the official recipe.

Run:    python tools/train.py configs/revcol-large_upernet_ade20k.py   (weights: see revcol_upernet_ade20k.py)
"""

_base_ = "./revcol-base-22k_upernet_ade20k.py"

model = dict(
    backbone=dict(arch="large"),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
warm_up, poly = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=3000), dict(poly, begin=3000)]
