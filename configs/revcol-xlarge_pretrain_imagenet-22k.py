"""RevCol-XL with intermediate supervision, ImageNet-22k, 90 epochs: the official recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-xlarge_pretrain_imagenet-22k.py --launcher pytorch
"""

_base_ = "./revcol-base_pretrain_imagenet-22k.py"

model = dict(backbone=dict(arch="xlarge", drop_path_rate=0.4))
