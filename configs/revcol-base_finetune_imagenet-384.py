"""RevCol-B from ImageNet-22k weights, ImageNet-1k, 30 epochs of 384 pixels: the official fine-tuning.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-base_finetune_imagenet-384.py --launcher pytorch --auto-scale-lr

The learning rate is for 1024 images a step; 8 GPUs of 64 make 512, and --auto-scale-lr halves it. Images are validated
whole, warped to a square. The published file: python tools/test.py with this config and revcol_base_22k_1kft_384.pth
"""

_base_ = "./revcol-base_finetune_imagenet.py"

size = 384
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = size
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(size, size), backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
