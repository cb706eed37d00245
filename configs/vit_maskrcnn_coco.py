"""Mask R-CNN, ViTDet-B, COCO 2017, 100 epochs of large-scale jitter: the official recipe.

Run:    python tools/train.py configs/vit_maskrcnn_coco.py

184375 iterations, decay at 163889 and 177546; AdamW 1e-4 for 64 images a step (16 GPUs of 4; --auto-scale-lr for other
numbers), mixed precision. MAE's weights are downloaded at the first start; their licence is CC BY-NC 4.0.
"""

_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "mmdet::common/lsj-100e_coco-instance.py"]
custom_imports = dict(imports=["backbones"], allow_failed_imports=False)

norm_cfg = dict(type="LayerNorm2d", eps=1e-6)
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # 1024x1024 always: the relative positions are of that size
    backbone=dict(
        _delete_=True,
        type="PlainViT",
        arch="base",
        drop_path_rate=0.1,
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        rel_pos=1024,
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, num_outs=5),
        init_cfg=dict(
            type="Pretrained", checkpoint="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth"
        ),
    ),
    neck=None,  # the backbone has its pyramid
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(times=1),  # the stock config repeats its data to make epochs longer; here iterations count
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=184375, val_interval=5000)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type="MultiStepLR", by_epoch=False, milestones=[163889, 177546], gamma=0.1),
]
optim_wrapper = dict(
    type="AmpOptimWrapper",
    constructor="DenseLayerDecayOptimWrapperConstructor",
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        # As in the official code, where weight decay spares the blocks' norms and the position table: biases do decay,
        # and so do the norms of the pyramid and the heads.
        flat_decay_mult=1.0,
        custom_keys={name: dict(decay_mult=0.0) for name in ("norm1", "norm2", "pos_embed")},
    ),
)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000), logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
