"""UPerNet, RevCol-S, ADE20K, crops of 512, 160k iterations: the official recipe.

Run:    python tools/train.py configs/revcol-small_upernet_ade20k.py   (weights: see the tiny one)
Result: not yet run here. Published: mIoU 47.9, 49.0 with multi-scale test, 90 M parameters, 1031 G FLOPs at 2048x512,
        from ImageNet-1k weights (segmentation readme of megvii-research/RevCol).
"""

_base_ = "./revcol_upernet_ade20k.py"

model = dict(backbone=dict(arch="small"))
optim_wrapper = dict(optimizer=dict(lr=4e-5))
