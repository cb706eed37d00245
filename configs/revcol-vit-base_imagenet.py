"""RevColViT-B, ImageNet-1k, 300 epochs: RevCol's recipe without intermediate supervision.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-vit-base_imagenet.py --launcher pytorch

The drop-path is the paper's.
"""

_base_ = "./revcol-vit_imagenet.py"

model = dict(backbone=dict(arch="base", drop_path_rate=0.2))
