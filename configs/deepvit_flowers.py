"""A small DeepViT from scratch, photographs of flowers; made for two CPU cores.

Run:    python tools/train.py configs/deepvit_flowers.py --data-root FOLDER
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_flowers.py"

model = dict(
    backbone=dict(
        type="DeepViTTrunk",
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
