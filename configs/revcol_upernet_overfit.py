"""UPerNet, a small RevCol from scratch, overfitting six images with index masks.

Run:    python tools/train.py configs/revcol_upernet_overfit.py --data-root FOLDER
Result: in docs/RESULTS.md.

The folder has the layout of revcol_upernet_custom.py; training and evaluation use its first six training images.
"""

_base_ = "./revcol_upernet_custom.py"

channels = [32, 64, 128, 256]
crop = (192, 192)
scale = (768, 192)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, channels=channels, depths=(1, 1, 2, 1), num_columns=2, kernel_size=7),
        drop_path_rate=0.0,
    ),
    decode_head=dict(in_channels=channels, channels=64),
    auxiliary_head=dict(in_channels=128, channels=64),
    data_preprocessor=dict(size=crop),
    test_cfg=dict(crop_size=crop, stride=(128, 128)),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale, train_pipeline[2].ratio_range = scale, (1.0, 1.5)
train_pipeline[3].crop_size = crop
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = scale
no_workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=6, dataset=dict(indices=6, pipeline=train_pipeline), **no_workers)
val_dataloader = dict(
    dataset=dict(
        indices=6,
        data_prefix=dict(img_path="images/train", seg_map_path="annotations/train"),
        pipeline=test_pipeline,
    ),
    **no_workers,
)
test_dataloader = val_dataloader

max_iters = 600
optim_wrapper = dict(optimizer=dict(lr=3e-3))
warm_up, poly = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=20), dict(poly, begin=20, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
randomness = dict(seed=0)
