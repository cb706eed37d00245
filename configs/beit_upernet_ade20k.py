"""UPerNet, BEiT-B, ADE20K, crops of 512, 160k iterations: MAE's recipe, which is BEiT's own but for the schedule.

Run:    python tools/train.py configs/beit_upernet_ade20k.py \\
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE

FILE is one for 224 pixels, from the authors or timm; BEiT v2's weights want ImageNet's mean and deviation, as in
vit_upernet_ade20k.py. The tables of relative positions are resized to the crop's grid. Weights: MIT.
"""

_base_ = "./vit_upernet_ade20k.py"

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True, type="backbones.BEiT", arch="base", drop_path_rate=0.1, pyramid="taps", taps=(3, 5, 7, 11)
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))))
