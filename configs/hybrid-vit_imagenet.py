"""R50+ViT-B/16, ImageNet-1k from scratch, 300 epochs: AugReg's recipe for ViT-B/16.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/hybrid-vit_imagenet.py --launcher pytorch --auto-scale-lr

From big_vision's config for arXiv:2106.10270 ("medium2"): AdamW 1e-3 for 4096 images a step (8 GPUs of 128 make 1024, and
--auto-scale-lr a quarter of the rate), weight decay 1e-4 of each step, that is 0.1 in torch's terms, 10000 steps of
warm-up (32 epochs), cosine to 0, clipped gradients, mixup of 0.5, two operations of RandAugment at their strongest (the
original's scale goes on to 15, the host's ends at 10); no cutmix, smoothing, erasing, repetition or moving average.
Validation is on the centre of the image whose short side is 248, as for the published weights.
"""

_base_ = "./vit_imagenet.py"

data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)
model = dict(
    backbone=dict(type="HybridViTTrunk", arch="r50-base", drop_path_rate=0.0),
    head=dict(loss=dict(_delete_=True, type="CrossEntropyLoss", use_soft=True)),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.5)]),
)

load, crop, flip, augment, _, pack = _base_.train_pipeline
augment.update(magnitude_level=10, magnitude_std=0)
augment.hparams.pad_val = [128] * 3
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 248
train_dataloader = dict(sampler=dict(type="DefaultSampler"), dataset=dict(pipeline=[load, crop, flip, augment, pack]))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(weight_decay=0.1), clip_grad=dict(max_norm=1))
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=32), dict(cosine, eta_min_ratio=0.0, begin=32)]
auto_scale_lr = dict(base_batch_size=4096)
custom_hooks = []
