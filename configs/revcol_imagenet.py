"""RevCol-T with intermediate supervision, ImageNet-1k, 300 epochs: the official recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol_imagenet.py --launcher pytorch

AdamW 1e-3 for 1024 images a step (8 GPUs of 128; --auto-scale-lr for other numbers), 20 epochs of warm-up from 1e-5,
cosine to 1e-6, mixed precision, moving average of the weights with 0.9999; both sets of weights are validated.
Our one difference: biases of convolutions start as torch's, not at 0, where padded images have huge first gradients.
The published file is evaluated as it is: python tools/test.py configs/revcol_imagenet.py revcol_tiny_1k.pth
"""

_base_ = ["./_base_/imagenet.py", "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py"]
custom_imports = dict(imports=["backbones.classification"], allow_failed_imports=False)

model = dict(
    type="DenseClassifier",
    # reversible: the same gradients in less memory, for at most a third more backbone arithmetic
    backbone=dict(type="RevCol", arch="tiny", drop_path_rate=0.1, reversible=True),
    head=dict(
        type="SupervisedRevColHead",
        num_classes=1000,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    constructor="DenseLayerDecayOptimWrapperConstructor",
    # Parameters of one dimension do not decay; the shortcuts (alpha) have four here and do, unlike in a detector.
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=1.0),
)
# Ends of the cosine are relative, so that each group, and --auto-scale-lr, keeps the proportions.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-5 / 1e-3, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-6 / 1e-3, begin=20, convert_to_iter_based=True),
]
custom_hooks = [dict(type="EMAHook", momentum=1e-4, evaluate_on_origin=True)]
