"""Cascade Mask R-CNN, RevCol-S, COCO 2017, 3x multi-scale.

Run:    python tools/train.py configs/revcol-small_cascade-maskrcnn_coco.py   (weights: see the tiny one)
Result: not yet run here. Published: box AP 52.6, mask AP 45.5, 118 M parameters, 833 G FLOPs at 1280x800,
        from ImageNet-1k weights (detection readme of megvii-research/RevCol).
"""

_base_ = "./revcol_cascade-maskrcnn_coco.py"

model = dict(backbone=dict(arch="small", drop_path_rate=0.4))
