"""Mask R-CNN, BEiT-B, COCO 2017, ViTDet's recipe. Not yet run here.

Run:    python tools/train.py configs/beit_maskrcnn_coco.py \\
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE

Differences from vit_maskrcnn_coco.py: BEiT's tables of relative positions, which are those of the windows for a FILE
of 224 pixels and are resized in the global blocks, and layer scales; neither has weight decay. FILE is from the
authors or timm; BEiT v2's weights want ImageNet's mean and deviation, as in vit_maskrcnn_coco.py. Weights: MIT.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True,
        type="BEiT",
        arch="base",
        drop_path_rate=0.1,
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, num_outs=5),
    ),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in ("gamma_", "relative_position_bias_table")})
)
