"""RevCol-S with intermediate supervision, ImageNet-1k, 300 epochs: the official recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-small_imagenet.py --launcher pytorch
"""

_base_ = "./revcol_imagenet.py"

model = dict(backbone=dict(arch="small", drop_path_rate=0.3))
