"""Mask R-CNN, a small hybrid of ResNet and ViT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/train.py configs/hybrid-vit_maskrcnn_sample.py
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_maskrcnn_sample.py"

model = dict(
    backbone=dict(
        type="HybridViT",
        arch=dict(depth=4, stage_depths=(1, 1, 2), stage_channels=(128, 256, 512), stem_channels=32),
        pyramid="taps",
    ),
    neck=dict(in_channels=[128, 256, 192, 192]),
)
