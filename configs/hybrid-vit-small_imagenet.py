"""R26+ViT-S/32, ImageNet-1k from scratch, 300 epochs: AugReg's recipe for ViT-S/32 ("light2").

Run:    torchrun --nproc_per_node=8 tools/train.py configs/hybrid-vit-small_imagenet.py --launcher pytorch --auto-scale-lr
"""

_base_ = "./hybrid-vit_imagenet.py"

model = dict(backbone=dict(arch="r26-small-32"), train_cfg=dict(augments=[dict(type="Mixup", alpha=0.2)]))
