"""Cascade Mask R-CNN, RevCol-B, COCO 2017, 3x multi-scale.

Run:    python tools/train.py configs/revcol-base_cascade-maskrcnn_coco.py   (weights: see the tiny one)
Result: not yet run here. Published: box AP 53.0, mask AP 45.9, 196 M parameters, 988 G FLOPs at 1280x800,
        from ImageNet-1k weights; 55.0 and 47.5 from ImageNet-22k weights, for which the authors halve the learning rate:
        --cfg-options optim_wrapper.optimizer.lr=1e-4   (detection readme of megvii-research/RevCol).
"""

_base_ = "./revcol_cascade-maskrcnn_coco.py"

model = dict(backbone=dict(arch="base", drop_path_rate=0.4), neck=dict(in_channels=[72, 144, 288, 576]))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
