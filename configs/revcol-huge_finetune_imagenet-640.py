"""RevCol-H from weights of 168 M private images, ImageNet-1k, 20 epochs of 640 pixels: the official fine-tuning.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-huge_finetune_imagenet-640.py --launcher pytorch --auto-scale-lr

The published file: python tools/test.py with this config and revcol_huge_megdata_in1k.pth

Add --shard --cfg-options custom_hooks=[] to divide the model over the GPUs, without the average of the weights
(docs/learn/sharding.md).

The learning rate is for 1024 images a step; the numbers of GPUs and of images on each are not published, 2 are chosen.
"""

_base_ = "./revcol-xlarge_finetune_imagenet-384.py"

size = 640
model = dict(
    backbone=dict(
        arch="huge",
        init_cfg=dict(
            checkpoint="https://huggingface.co/LarryTsai/RevCol/resolve/main/revcol_models/classification/revcol_huge_megdata.pth"
        ),
    ),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (size, size)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=2, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=4e-5), clip_grad=dict(max_norm=100))
param_scheduler = [dict(_base_.param_scheduler[0], eta_min_ratio=2e-8 / 4e-5)]
train_cfg = dict(max_epochs=20)
