"""Mask R-CNN, a small RevColViT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/train.py configs/revcol-vit_maskrcnn_sample.py
Result: not yet run.
"""

_base_ = "./vit_maskrcnn_sample.py"

model = dict(
    backbone=dict(
        type="RevColViT",
        arch=dict(_delete_=True, embed_dims=128, depths=(1, 1, 1, 1), num_heads=4, num_columns=3),
        reversible=True,
    )
)
