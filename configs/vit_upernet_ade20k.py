"""UPerNet, ViT-B, ADE20K, crops of 512, 160k iterations: MAE's recipe in mmseg's settings.

Run:    python tools/train.py configs/vit_upernet_ade20k.py

MAE's segmentor adds BEiT's relative positions, which this one lacks.

MAE's weights are downloaded at the first start; their licence is CC BY-NC 4.0.
"""

_base_ = "./_base_/upernet_ade20k.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="PlainViT",
        arch="base",
        drop_path_rate=0.1,
        pyramid="taps",
        taps=(3, 5, 7, 11),
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth"
        ),
    ),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        layer_decay_rate=0.65, custom_keys={name: dict(decay_mult=0.0) for name in ("pos_embed", "_token")}
    )
)
sync_bn = "torch"  # the pyramid has a batch norm
