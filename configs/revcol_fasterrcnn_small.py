"""Faster R-CNN, a small RevCol from scratch, a small data set of your own with boxes; made for two CPU cores.

Run:    python tools/train.py configs/revcol_fasterrcnn_small.py --data-root FOLDER --classes auto

Assumes about a hundred images, and objects of 12 pixels and more at 320 pixels.
Result: box AP50 .834 on 40 held-out microscope photographs after training on 100, 9 minutes; see docs/RESULTS.md.
"""

_base_ = "./revcol_maskrcnn_sample.py"

image_size = (320, 320)
max_epochs = 60

model = dict(
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
    # Crowded images: more proposals than the drawn shapes need.
    train_cfg=dict(rpn_proposal=dict(nms_pre=400, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=400, max_per_img=200)),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=image_size, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=image_size),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PhotoMetricDistortion", brightness_delta=16, contrast_range=(0.8, 1.2), hue_delta=9),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_size, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric="bbox", classwise=True)
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=10)
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=100), dict(cosine, end=max_epochs)]
