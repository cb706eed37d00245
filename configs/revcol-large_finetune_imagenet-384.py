"""RevCol-L from ImageNet-22k weights, ImageNet-1k, 30 epochs of 384 pixels: the official fine-tuning.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-large_finetune_imagenet-384.py --launcher pytorch --auto-scale-lr

The published file: python tools/test.py with this config and revcol_large_22k_1kft_384.pth
"""

_base_ = "./revcol-base_finetune_imagenet-384.py"

model = dict(
    backbone=dict(
        arch="large",
        drop_path_rate=0.3,
        init_cfg=dict(
            checkpoint="https://github.com/megvii-research/RevCol/releases/download/checkpoint/revcol_large_22k.pth"
        ),
    ),
    head=dict(init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02 * 0.001)),
)
optim_wrapper = dict(optimizer=dict(lr=5e-5), paramwise_cfg=dict(layer_decay_rate=0.8))
param_scheduler = [dict(_base_.param_scheduler[0], eta_min_ratio=2e-7 / 5e-5)]
