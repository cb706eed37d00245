"""A small RevColViT from scratch, photographs of flowers; made for two CPU cores.

Run:    python tools/train.py configs/revcol-vit_flowers.py --data-root FOLDER
Result: not yet run as it is; a smaller one is in docs/PAPERS.md.

Data, augmentation, schedule and learning rate are those of vit_flowers.py; the network is that of
revcol-vit_maskrcnn_sample.py.
"""

_base_ = "./vit_flowers.py"

model = dict(
    backbone=dict(
        type="RevColViTTrunk",
        arch=dict(_delete_=True, embed_dims=128, depths=(1, 1, 1, 1), num_heads=4, num_columns=3),
    ),
    head=dict(type="RevColHead"),
)
