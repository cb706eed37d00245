"""CeiT-S, ImageNet-1k, 300 epochs: DeiT's recipe, as in the official code.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/ceit_imagenet.py --launcher pytorch

The layer positions (pos_layer_embed of the head) have weight decay, as in the official code.
"""

_base_ = "./vit_imagenet.py"

model = dict(backbone=dict(type="CeiTTrunk", arch="small"), head=dict(type="CeiTHead"))
