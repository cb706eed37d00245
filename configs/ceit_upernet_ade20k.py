"""UPerNet, CeiT-S, ADE20K, crops of 512, 160k iterations, MAE's recipe.

Run:    python tools/train.py configs/ceit_upernet_ade20k.py --cfg-options model.backbone.init_cfg.checkpoint=PATH
            (weights: on Google Drive, linked in the readme of coeusguo/ceit)

Differences from vit_upernet_ade20k.py: batch norms are frozen, since a GPU holds two images only; the pyramid has
none, for the same reason; and the decoder is narrower.
"""

_base_ = "./vit_upernet_ade20k.py"

model = dict(
    backbone=dict(
        type="CeiT",
        arch="small",
        norm_eval=True,
        pyramid="simple",
        taps=None,
        init_cfg=dict(checkpoint="ceit_small.pth"),
    ),
    decode_head=dict(in_channels=[256] * 4, channels=512),
    auxiliary_head=dict(in_channels=256),
)
sync_bn = None  # frozen: nothing to synchronise
