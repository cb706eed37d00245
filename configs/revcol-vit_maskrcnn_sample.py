"""Mask R-CNN, a small RevColViT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/train.py configs/revcol-vit_maskrcnn_sample.py
Result: box AP50 .311 after four epochs with optim_wrapper.optimizer.lr=5e-4, in docs/RESULTS.md; all twelve not yet run.
"""

_base_ = "./vit_maskrcnn_sample.py"

model = dict(
    backbone=dict(
        type="RevColViT",
        arch=dict(_delete_=True, embed_dims=128, depths=(1, 1, 1, 1), num_heads=4, num_columns=3),
        pyramid=dict(type="LevelPyramid"),
        reversible=True,
    )
)
