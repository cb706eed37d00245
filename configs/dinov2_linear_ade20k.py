"""A linear layer on DINOv2-B, frozen; ADE20K, crops of 512, 40k iterations: the authors' recipe. Not yet run here.

Run:    python tools/train.py configs/dinov2_linear_ade20k.py

Batch norm and a 1x1 convolution on the last map, through the final norm. From the authors'
dinov2_vitb14_ade20k_linear_config.py (in a copy of other authors): head, AdamW 1e-3 for 16 images a step (8 GPUs of
2), weight decay 1e-4, warm-up over 1500 iterations, linear decay to 0, full precision. Images that are no multiples of
14 are padded at the right and at the bottom here, on all sides there.

The weights are downloaded at the first start; their licence is Apache-2.0.
"""

_base_ = "./_base_/upernet_ade20k.py"
custom_imports = dict(imports=["backbones", "backbones.segmentation"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type="backbones.DINOv2",
        arch="base",
        pyramid=None,
        frozen_stages=12,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        ),
    ),
    decode_head=dict(
        _delete_=True,
        type="backbones.LinearHead",
        in_channels=768,
        num_classes=150,
        norm_cfg=dict(type="SyncBN"),
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    auxiliary_head=None,
)
optim_wrapper = dict(
    _delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, begin=1500, end=40_000, eta_min=0.0, by_epoch=False),
]
train_cfg = dict(max_iters=40_000, val_interval=10_000)
default_hooks = dict(checkpoint=dict(interval=10_000))
