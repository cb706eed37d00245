"""CeiT-S, ImageNet-1k, 300 epochs: DeiT's recipe, as in the official code.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/ceit_imagenet.py --launcher pytorch

The positions of the layers (pos_layer_embed of the head) do decay: the official code's list of what is spared omits them.
"""

_base_ = "./vit_imagenet.py"

model = dict(backbone=dict(type="CeiTTrunk", arch="small"), head=dict(type="CeiTHead"))
