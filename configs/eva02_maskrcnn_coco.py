"""Mask R-CNN, EVA-02-B, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/eva02_maskrcnn_coco.py

Differences from vit_maskrcnn_coco.py: rotary positions instead of relative ones. The authors' own detectors are Cascade
Mask R-CNN. The weights, whose patches the authors brought to 16 pixels, are downloaded at the first start; their licence
is Apache-2.0.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    data_preprocessor=dict(mean=[122.7709, 116.7460, 104.0937], std=[68.5005, 66.6322, 70.3232]),
    backbone=dict(
        _delete_=True,
        type="EVA02",
        arch="base-16",
        drop_path_rate=0.1,
        window_size=16,
        global_blocks=(2, 5, 8, 11),
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=256, num_outs=5),
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/Yuxin-CV/EVA-02/resolve/main/eva02/pt/eva02_B_pt_in21k_p14to16.pt",
        ),
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(ffn_ln=dict(decay_mult=0.0))))
