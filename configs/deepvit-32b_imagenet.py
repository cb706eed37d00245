"""DeepViT with 32 blocks, ImageNet-1k, 300 epochs, with a loss that keeps attention maps apart.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/deepvit-32b_imagenet.py --launcher pytorch

As published, mixup of 0.1, no cutmix, and a cosine regulariser between the maps of different blocks. The compared
blocks and the meaning of the official option "cos_reg_component 12" are unknown; here neighbours are compared, with a
weight of 1. The rest is as in deepvit_imagenet.py.
"""

_base_ = "./deepvit_imagenet.py"

model = dict(
    type="DiverseClassifier",
    similarity_weight=1.0,
    backbone=dict(arch="32b"),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.1)]),
)
