"""Mask R-CNN, EVA-02-B, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/eva02_maskrcnn_coco.py \\
            --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE

Differences from vit_maskrcnn_coco.py: patches of 14, whose maps are resampled to stride 16, and rotary positions instead of
relative ones. FILE is one of pre-training (eva02_B_pt_in21k_p14.pt), from the authors or timm. Weights: MIT by
timm's cards, Apache-2.0 by that of the authors' repository on the hub.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    data_preprocessor=dict(mean=[122.7709, 116.7460, 104.0937], std=[68.5005, 66.6322, 70.3232]),
    backbone=dict(
        _delete_=True,
        type="EVA02",
        arch="base",
        drop_path_rate=0.1,
        window_size=16,
        global_blocks=(2, 5, 8, 11),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, num_outs=5),
    ),
)
