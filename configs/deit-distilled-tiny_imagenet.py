"""DeiT-Ti with hard distillation from RegNetY-16GF, ImageNet-1k, 300 epochs: the official recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/deit-distilled-tiny_imagenet.py --launcher pytorch
"""

_base_ = "./deit-distilled_imagenet.py"

model = dict(backbone=dict(arch="tiny"))
