"""UPerNet, RevCol-B, ADE20K, crops of 512, 160k iterations: the official recipe for ImageNet-1k weights.

Run:    python tools/train.py configs/revcol-base_upernet_ade20k.py   (weights: see the tiny one)
Result: not yet run here. Published: mIoU 49.0, 50.1 with multi-scale test, from ImageNet-1k weights (segmentation
        readme of megvii-research/RevCol). Its 122 M parameters and 1169 G FLOPs at 2048x512 do not fit the backbone of
        138 M parameters; counted here: 169 M, 1190 G.
"""

_base_ = "./revcol-small_upernet_ade20k.py"

model = dict(
    backbone=dict(arch="base"),
    decode_head=dict(in_channels=[72, 144, 288, 576]),
    auxiliary_head=dict(in_channels=288),
    test_cfg=dict(stride=(426, 426)),
)
