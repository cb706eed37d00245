"""A small hybrid of a ResNet and a ViT from scratch, photographs of flowers; made for two CPU cores.

Run:    python tools/train.py configs/hybrid-vit_flowers.py --data-root FOLDER
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_flowers.py"

model = dict(
    backbone=dict(
        type="HybridViTTrunk",
        arch=dict(depth=4, stage_depths=(1, 1, 2), stage_channels=(128, 256, 512), stem_channels=32),
    )
)
