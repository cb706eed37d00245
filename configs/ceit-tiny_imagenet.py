"""CeiT-T, ImageNet-1k, 300 epochs: DeiT's recipe, as in the official code.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/ceit-tiny_imagenet.py --launcher pytorch
Result: not yet run here. Published: top-1 76.4, 6.4 M parameters (CeiT readme).
"""

_base_ = "./ceit_imagenet.py"

model = dict(backbone=dict(arch="tiny"))
