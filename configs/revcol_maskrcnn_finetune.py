"""Mask R-CNN, RevCol-T, a short schedule for a small data set of your own.

Run:    python tools/train.py configs/revcol_maskrcnn_finetune.py --data-root FOLDER --classes auto
        boxes without masks: --boxes-only; RevCol-T's published weights:
        --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=revcol_tiny_1k.pth

Assumes hundreds of images, one GPU with 12 GB, and pretrained weights: 12 epochs of two images at 640 to 800 pixels, AdamW
5e-5 with layer decay 0.85, warm-up over 100 iterations, decay to 0 along a cosine.
"""

_base_ = "./revcol_maskrcnn_coco.py"

max_epochs = 12
sizes = [(1333, side) for side in (640, 672, 704, 736, 768, 800)]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=sizes, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))

model = dict(backbone=dict(drop_path_rate=0.1))
optim_wrapper = dict(optimizer=dict(lr=5e-5))
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", eta_min=0, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=2)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
