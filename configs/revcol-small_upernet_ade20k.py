"""UPerNet, RevCol-S, ADE20K, crops of 512, 160k iterations: the official recipe.

Run:    python tools/train.py configs/revcol-small_upernet_ade20k.py   (weights: see revcol_upernet_ade20k.py)
"""

_base_ = "./revcol_upernet_ade20k.py"

model = dict(backbone=dict(arch="small"))
optim_wrapper = dict(optimizer=dict(lr=4e-5))
