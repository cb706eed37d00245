"""RevColViT-S, ImageNet-1k, 300 epochs: RevCol's recipe without intermediate supervision.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-vit_imagenet.py --launcher pytorch

No recipe was published. Positions, which RevCol lacks, have no weight decay.
"""

_base_ = "./revcol_imagenet.py"

model = dict(backbone=dict(type="RevColViTTrunk", arch="small"), head=dict(type="RevColHead"))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.0))))
