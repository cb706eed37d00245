"""A small ViT from scratch, photographs of flowers; made for two CPU cores.

Run:    python tools/train.py configs/vit_flowers.py --data-root FOLDER
Result: in docs/RESULTS.md, beside the other families.

Data, augmentation and batches are those of revcol_flowers.py; the network is that of vit_maskrcnn_sample.py.
"""

_base_ = "./revcol_flowers.py"

max_epochs = 60
model = dict(
    backbone=dict(
        _delete_=True,
        type="ViTTrunk",
        arch=dict(embed_dims=192, depth=6, num_heads=3),
        img_size=96,
        drop_path_rate=0.1,
    ),
    head=dict(type="ClassTokenHead"),
)
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, begin=5, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
