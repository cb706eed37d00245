"""Mask R-CNN, a small RevCol from scratch, the sample data set; made for two CPU cores.

Run: python tools/make_sample_coco.py data/sample_coco
     python tools/train.py configs/revcol_maskrcnn_sample.py
Result: box AP50 .928, mask AP50 .910 on the held-out images, 10 minutes; other seeds in docs/RESULTS.md.
"""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["backbones"], allow_failed_imports=False)

classes = ("disc", "rectangle", "triangle", "star", "ring")
data_root = "data/sample_coco/"
image_size = (128, 128)
max_epochs = 12

channels = [32, 64, 128, 256]
norm_cfg = dict(type="GN", num_groups=8)  # batches are too small for batch norm
model = dict(
    backbone=dict(
        _delete_=True,
        type="RevCol",
        arch=dict(channels=channels, depths=(1, 1, 2, 1), num_columns=2, kernel_size=7),
        reversible=True,
    ),
    neck=dict(in_channels=channels, out_channels=64, num_outs=4, norm_cfg=norm_cfg),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[3], strides=[4, 8, 16, 32]),  # sides of 12, 24, 48 and 96 pixels
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=dict(
            type="ConvFCBBoxHead",  # without convolutions the classes are learnt far more slowly
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=norm_cfg,
            num_classes=len(classes),
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64, num_classes=len(classes)),
    ),
    # A handful of objects in an image needs few proposals.
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50)),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
dataset = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", eta_min=1e-6, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=42)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
