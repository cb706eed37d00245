"""Mask R-CNN, DINOv3-B, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/dinov3_maskrcnn_coco.py \\
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE

Differences from vit_maskrcnn_coco.py: rotary positions in the windows too, taps through the final norm, and neither it
nor the layer scales have weight decay. The weights are given on request, under the DINOv3 licence: free of charge,
passed on only with a copy of it, and not for military and similar uses.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="DINOv3",
        arch="base",
        drop_path_rate=0.1,
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, num_outs=5),
    )
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in ("gamma_", "backbone.norm.")})
)
