"""CaiT-XXS24, ImageNet-1k, 400 epochs: DeiT's recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/cait-xxs24_imagenet.py --launcher pytorch
"""

_base_ = "./cait_imagenet.py"

model = dict(backbone=dict(arch="xxs24", drop_path_rate=0.05))
