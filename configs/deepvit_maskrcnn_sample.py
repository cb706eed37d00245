"""Mask R-CNN, a small DeepViT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/train.py configs/deepvit_maskrcnn_sample.py
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_maskrcnn_sample.py"

# The proportions of DeepViT-S: convolutional stem, the last third of the blocks re-attends.
model = dict(
    backbone=dict(
        type="DeepViT",
        arch=dict(
            num_heads=6,
            mlp_ratio=3,
            cnn_stem=True,
            scale_adjustment=0.5,
            apply_transform=(False,) * 4 + (True,) * 2,
            transform_scale=True,
        ),
    )
)
