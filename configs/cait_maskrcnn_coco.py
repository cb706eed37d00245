"""Mask R-CNN, CaiT-S24, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/cait_maskrcnn_coco.py

Differences from vit_maskrcnn_coco.py: the global blocks and the layer-wise decay are those of ViTDet's trunk with 24
blocks, and layer scales have no weight decay. Drop-path is the same in every block, as CaiT was trained.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    backbone=dict(
        type="CaiT",
        arch="s24",
        global_blocks=(5, 11, 17, 23),
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/deit/S24_224.pth"),
    )
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8, custom_keys=dict(gamma_=dict(decay_mult=0.0))))
