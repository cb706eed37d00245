"""ViT-B/16 from MAE's weights, ImageNet-1k, 100 epochs: the official fine-tuning.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/vit_mae-finetune_imagenet.py --launcher pytorch

MAE's weights are downloaded at the first start; their licence is CC BY-NC 4.0. One's own, of vit_mae-pretrain_imagenet.py, do as
well: --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/vit_mae-pretrain_imagenet/epoch_1600.pth
The mean of the patch tokens is classified. AdamW 2e-3 for 1024 images a step (5e-4 for 256; 8 GPUs of 128), layer decay
0.65, 5 epochs of warm-up, cosine to 1e-6. The published file: python tools/test.py with this config and
mae_finetuned_vit_base.pth
"""

_base_ = "./vit_imagenet.py"

model = dict(
    backbone=dict(
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth"
        )
    ),
    head=dict(type="MeanPoolHead", init_cfg=dict(type="TruncNormal", layer="Linear", std=2e-5)),
)
train_dataloader = dict(sampler=dict(type="DefaultSampler"))
optim_wrapper = dict(optimizer=dict(lr=2e-3), paramwise_cfg=dict(layer_decay_rate=0.65))
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, start_factor=1e-4), dict(cosine, eta_min_ratio=1e-6 / 2e-3)]
train_cfg = dict(max_epochs=100)
custom_hooks = []
