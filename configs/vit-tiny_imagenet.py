"""ViT-Ti/16, ImageNet-1k, 300 epochs: DeiT's recipe without distillation.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/vit-tiny_imagenet.py --launcher pytorch
"""

_base_ = "./vit_imagenet.py"

model = dict(backbone=dict(arch="tiny"))
