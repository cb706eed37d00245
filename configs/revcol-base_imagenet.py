"""RevCol-B with intermediate supervision, ImageNet-1k, 300 epochs: the official recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-base_imagenet.py --launcher pytorch
"""

_base_ = "./revcol_imagenet.py"

model = dict(backbone=dict(arch="base", drop_path_rate=0.4))
optim_wrapper = dict(clip_grad=dict(max_norm=5))
warm_up, cosine = _base_.param_scheduler
param_scheduler = [warm_up, dict(cosine, eta_min_ratio=1e-8 / 1e-3)]
