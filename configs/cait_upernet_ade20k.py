"""UPerNet, CaiT-S24, ADE20K, crops of 512, 160k iterations, MAE's recipe.

Run:    python tools/train.py configs/cait_upernet_ade20k.py

Differences from vit_upernet_ade20k.py: the tapped blocks are those of BEiT-L, which has 24 blocks, too, the layer-wise
decay is that of MAE's fine-tuning with 24 blocks, and the decoder is as narrow as the trunk.
"""

_base_ = "./vit_upernet_ade20k.py"

model = dict(
    backbone=dict(
        type="CaiT",
        arch="s24",
        taps=(7, 11, 15, 23),
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/deit/S24_224.pth"),
    ),
    decode_head=dict(in_channels=[384] * 4, channels=384),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.75))
