"""UPerNet, DINOv2-B with registers, ADE20K, crops of 512, 160k iterations, MAE's recipe. Not yet run here.

Run:    python tools/train.py configs/dinov2_upernet_ade20k.py

Chosen here: the recipe, and the ends of four equal parts as taps. Patches of 14 are resampled to stride 16, taps go
through the final norm. The weights are downloaded at the first start; their licence is Apache-2.0.
"""

_base_ = "./vit_upernet_ade20k.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="backbones.DINOv2",
        arch="base",
        registers=4,
        drop_path_rate=0.1,
        pyramid="taps",
        taps=(2, 5, 8, 11),
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
        ),
    )
)
