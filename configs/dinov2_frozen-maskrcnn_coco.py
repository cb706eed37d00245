"""Mask R-CNN, DINOv2-B with registers, frozen, COCO 2017. Not yet run here.

Run:    python tools/train.py configs/dinov2_frozen-maskrcnn_coco.py

Pyramid and heads are trained, by ViTDet's recipe, which is chosen here. Blocks are global, as in pre-training: without
gradients they need no windows to save memory. The weights are downloaded at the first start; their licence is
Apache-2.0.
"""

_base_ = "./dinov2_maskrcnn_coco.py"

model = dict(
    backbone=dict(
        registers=4,
        frozen_stages=12,
        drop_path_rate=0.0,
        window_size=None,
        global_blocks=(),
        init_cfg=dict(
            checkpoint="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
        ),
    )
)
