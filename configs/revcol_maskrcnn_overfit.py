"""Mask R-CNN, a small RevCol from scratch, overfitting a few photographs in COCO's layout.

Run:    python tools/train.py configs/revcol_maskrcnn_overfit.py --data-root FOLDER
Result: in docs/RESULTS.md.

Shows that real annotations, crowds and polygons of several parts pass through training and evaluation.
"""

_base_ = "./revcol_maskrcnn_coco.py"

channels = [32, 64, 128, 256]
model = dict(
    backbone=dict(arch=dict(_delete_=True, channels=channels, depths=(1, 1, 2, 1), num_columns=2), drop_path_rate=0.0),
    neck=dict(in_channels=channels, out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_head=dict(in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=64))),
)

size = (384, 384)
train_pipeline = _base_.train_pipeline
resize_only, resize_crop_resize = train_pipeline[3].transforms
for step in (resize_only[0], resize_crop_resize[0], resize_crop_resize[2]):
    step.scales = [size]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = size
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(layer_decay_rate=1.0), clip_grad=dict(max_norm=5))
warm_up, steps = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=50), dict(steps, milestones=[120, 140], end=150)]
train_cfg = dict(max_epochs=150, val_interval=30)
randomness = dict(seed=0)
