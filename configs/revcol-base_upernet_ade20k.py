"""UPerNet, RevCol-B, ADE20K, crops of 512, 160k iterations: the official recipe for ImageNet-1k weights.

Run:    python tools/train.py configs/revcol-base_upernet_ade20k.py   (weights: see revcol_upernet_ade20k.py)
"""

_base_ = "./revcol-small_upernet_ade20k.py"

model = dict(
    backbone=dict(arch="base"),
    decode_head=dict(in_channels=[72, 144, 288, 576]),
    auxiliary_head=dict(in_channels=288),
    test_cfg=dict(stride=(426, 426)),
)
