"""CeiT-T, ImageNet-1k, 300 epochs: DeiT's recipe, as in the official code.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/ceit-tiny_imagenet.py --launcher pytorch
"""

_base_ = "./ceit_imagenet.py"

model = dict(backbone=dict(arch="tiny"))
