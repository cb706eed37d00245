"""UPerNet, DeepViT-S, ADE20K, crops of 512, 160k iterations, MAE's recipe.

Run:    python tools/train.py configs/deepvit_upernet_ade20k.py --cfg-options model.backbone.init_cfg.checkpoint=PATH
            (weights: on Google Drive, linked in the readme of zhoudaquan/dvit_repo)

Differences from vit_upernet_ade20k.py: normalisation and drop-path are those of DeepViT's own training, the layer-wise
decay lies between those of MAE's fine-tuning with 12 and with 24 blocks, and batch norms are frozen.
"""

_base_ = "./vit_upernet_ade20k.py"

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type="DeepViT",
        arch="s",
        drop_path_rate=0.2,
        # Blocks 11 to 15 re-attend. Within windows of 14 x 14 their batch norms see attention maps of the size that the
        # statistics were taken from; those of 32 x 32 tokens have values five times smaller.
        window_size=14,
        global_blocks=(2, 5, 8, 10),
        norm_eval=True,
        # The other pyramid has a batch norm of its own, which would be frozen before it has seen anything.
        pyramid="simple",
        taps=None,
        init_cfg=dict(checkpoint="deepvit_s.pth"),
    ),
    decode_head=dict(in_channels=[256] * 4, channels=512),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.7))
sync_bn = None  # frozen: nothing to synchronise
