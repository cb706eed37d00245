"""DeepViT-L, ImageNet-1k, 300 epochs: DeiT's recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/deepvit-large_imagenet.py --launcher pytorch
"""

_base_ = "./deepvit_imagenet.py"

model = dict(backbone=dict(arch="l"))
