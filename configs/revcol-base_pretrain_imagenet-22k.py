"""RevCol-B with intermediate supervision, ImageNet-22k, 90 epochs: the official recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-base_pretrain_imagenet-22k.py --launcher pytorch

    data/imagenet-22k/train/n00004475/*.JPEG  ...      21841 classes

ImageNet-22k has no validation set; evaluate after fine-tuning with revcol-base_finetune_imagenet.py. AdamW 1.25e-4 for
1024 images a step (8 GPUs of 128; --auto-scale-lr for other numbers), 5 epochs of warm-up from 1e-5, cosine to
1e-7. With so many classes the decoders are the simple ones.
"""

_base_ = "./revcol_imagenet.py"

num_classes = 21841
model = dict(backbone=dict(arch="base", drop_path_rate=0.3), head=dict(num_classes=num_classes))
train_dataloader = dict(dataset=dict(data_root="data/imagenet-22k"))
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None

optim_wrapper = dict(optimizer=dict(lr=1.25e-4, weight_decay=0.1), clip_grad=dict(max_norm=10))
warm_up, cosine = _base_.param_scheduler
param_scheduler = [
    dict(warm_up, start_factor=1e-5 / 1.25e-4, end=5),
    dict(cosine, eta_min_ratio=1e-7 / 1.25e-4, begin=5),
]
train_cfg = dict(max_epochs=90)
custom_hooks = []
