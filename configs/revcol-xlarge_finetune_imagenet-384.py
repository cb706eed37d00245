"""RevCol-XL from ImageNet-22k weights, ImageNet-1k, 30 epochs of 384 pixels: the official fine-tuning.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-xlarge_finetune_imagenet-384.py --launcher pytorch --auto-scale-lr

No weights were released: it starts from those of revcol-xlarge_pretrain_imagenet-22k.py.
"""

_base_ = "./revcol-large_finetune_imagenet-384.py"

model = dict(
    backbone=dict(
        arch="xlarge",
        drop_path_rate=0.4,
        init_cfg=dict(checkpoint="work_dirs/revcol-xlarge_pretrain_imagenet-22k/epoch_90.pth"),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=2e-5))
param_scheduler = [dict(_base_.param_scheduler[0], eta_min_ratio=2e-7 / 2e-5)]
custom_hooks = [dict(type="EMAHook", momentum=1e-4, evaluate_on_origin=True)]
