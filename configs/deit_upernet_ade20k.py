"""UPerNet, DeiT-B distilled, ADE20K, crops of 512, 160k iterations, MAE's recipe.

Run:    python tools/train.py configs/deit_upernet_ade20k.py
"""

_base_ = "./vit_upernet_ade20k.py"

model = dict(
    backbone=dict(
        type="DeiT",
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/deit/deit_base_distilled_patch16_224-df68dfff.pth"),
    )
)
