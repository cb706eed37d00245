"""ViT-B/16, ImageNet-1k, 300 epochs: DeiT's recipe without distillation.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/vit_imagenet.py --launcher pytorch

AdamW 1e-3 for 1024 images a step (8 GPUs of 128; --auto-scale-lr for other numbers), 5 epochs of warm-up from 1e-6,
cosine to 1e-5, mixed precision, in each epoch a third of the images in three versions each (repeated augmentation),
moving average of the weights with 0.99996; both sets of weights are validated. The published file is evaluated as it is:
python tools/test.py configs/vit_imagenet.py deit_base_patch16_224-b5f2ef4d.pth
"""

_base_ = ["./_base_/imagenet.py", "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py"]
custom_imports = dict(imports=["backbones.classification"], allow_failed_imports=False)

model = dict(
    type="DenseClassifier",
    backbone=dict(type="ViTTrunk", arch="base", drop_path_rate=0.1),
    head=dict(
        type="ClassTokenHead",
        num_classes=1000,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
train_dataloader = dict(batch_size=128, sampler=dict(type="RepeatAugSampler"))
optim_wrapper = dict(
    type="AmpOptimWrapper",
    constructor="DenseLayerDecayOptimWrapperConstructor",
    # Parameters of one dimension do not decay, nor do the tokens and the positions.
    paramwise_cfg=dict(
        _delete_=True,
        layer_decay_rate=1.0,
        custom_keys={name: dict(decay_mult=0.0) for name in ("pos_embed", "cls_token", "dist_token")},
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6 / 1e-3, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-5 / 1e-3, begin=5, convert_to_iter_based=True),
]
custom_hooks = [dict(type="EMAHook", momentum=4e-5, evaluate_on_origin=True)]
