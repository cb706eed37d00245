"""UPerNet, RevCol-T, ADE20K, crops of 512, 160k iterations: the official recipe.

Run:    python tools/train.py configs/revcol_upernet_ade20k.py \
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=PATH
"""

_base_ = "./_base_/upernet_ade20k.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="RevCol",
        arch="tiny",
        drop_path_rate=0.3,
        # The same gradients in less memory, for at most a third more backbone arithmetic.
        reversible=True,
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    paramwise_cfg=dict(layer_decay_rate=1.0, custom_keys={"alpha": dict(decay_mult=0.0)}),
)
