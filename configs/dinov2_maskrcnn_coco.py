"""Mask R-CNN, DINOv2-B, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/dinov2_maskrcnn_coco.py

Differences from vit_maskrcnn_coco.py: patches of 14, whose maps are resampled to stride 16, windows without relative
positions, taps through the final norm, and neither it nor the layer scales have weight decay. The weights without
registers are downloaded at the first start; their licence is Apache-2.0. In windows there is no room for registers; a
model of global blocks takes them with registers=4.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="DINOv2",
        arch="base",
        drop_path_rate=0.1,
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, num_outs=5),
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
        ),
    )
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={name: dict(decay_mult=0.0) for name in ("gamma_", "backbone.norm.")})
)
