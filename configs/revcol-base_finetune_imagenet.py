"""RevCol-B from ImageNet-22k weights, ImageNet-1k, 30 epochs of 224 pixels: the official fine-tuning.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-base_finetune_imagenet.py --launcher pytorch

The plain head starts at random. The weights are downloaded at the first start; their four classifiers and decoders are
skipped. A checkpoint of revcol-base_pretrain_imagenet-22k.py works, too: --cfg-options model.backbone.init_cfg.checkpoint=PATH
AdamW 1e-4 for 1024 images a step (8 GPUs of 128; --auto-scale-lr for other numbers), layer decay 0.9, no warm-up, no
mixup and cutmix. The published fine-tuned file is evaluated as it is:
python tools/test.py configs/revcol-base_finetune_imagenet.py revcol_base_22k_1kft_224.pth
"""

_base_ = "./revcol_imagenet.py"

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.2,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/megvii-research/RevCol/releases/download/checkpoint/revcol_base_22k.pth",
        ),
    ),
    head=dict(type="RevColHead"),
    train_cfg=None,
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-8),
    paramwise_cfg=dict(layer_decay_rate=0.9),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [dict(type="CosineAnnealingLR", eta_min_ratio=2e-7 / 1e-4, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=30)
custom_hooks = []
