"""UPerNet, RevColViT-S, ADE20K, crops of 512, 160k iterations: RevCol's recipe.

Run:    python tools/train.py configs/revcol-vit_upernet_ade20k.py \
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=PATH

Differences from revcol_upernet_ade20k.py: the levels come from a pyramid, and positions have no weight decay.
"""

_base_ = "./revcol_upernet_ade20k.py"

model = dict(
    backbone=dict(type="RevColViT", arch="small"),
    decode_head=dict(in_channels=[256] * 4),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.0))))
