"""Cascade Mask R-CNN, RevCol-T, COCO 2017, 3x multi-scale: the official detection recipe.

Run:    python tools/train.py configs/revcol_cascade-maskrcnn_coco.py \
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=PATH

36 epochs, decay at 27 and 33; AdamW 2e-4 for 16 images a step (8 GPUs of 2; --auto-scale-lr for other numbers).
"""

# ConvNeXt's recipe is the one RevCol's authors took over (4conv1fc SyncBN heads, GIoU of weight 10, DETR's crops);
# only backbone and optimiser groups differ.
_base_ = "mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py"
custom_imports = dict(imports=["backbones"], allow_failed_imports=False)
checkpoint_file = None  # ConvNeXt's

model = dict(
    backbone=dict(
        _delete_=True,
        type="RevCol",
        arch="tiny",
        drop_path_rate=0.3,
        # Training at 1333x800 is bound by memory; the same gradients for at most a third more backbone arithmetic.
        reversible=True,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(
    constructor="DenseLayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.85, custom_keys={"alpha": dict(decay_mult=0.0)}),
)
