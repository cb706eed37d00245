"""Mask R-CNN, SigLIP 2-B, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/siglip2_maskrcnn_coco.py \\
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE

Differences from vit_maskrcnn_coco.py: no relative positions, and a table for 512 pixels. FILE is one of the image tower or
of both towers for this size, from timm or the transformers library. Weights: Apache-2.0.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True,
        type="SigLIP2",
        arch="base",
        img_size=512,
        drop_path_rate=0.1,
        window_size=16,
        global_blocks=(2, 5, 8, 11),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, num_outs=5),
    ),
)
