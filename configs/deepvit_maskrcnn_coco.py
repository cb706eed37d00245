"""Mask R-CNN, DeepViT-S, COCO 2017, ViTDet's recipe.

Run:    python tools/train.py configs/deepvit_maskrcnn_coco.py --cfg-options model.backbone.init_cfg.checkpoint=PATH
            (weights: on Google Drive, linked in the readme of zhoudaquan/dvit_repo)

Differences from vit_maskrcnn_coco.py: normalisation and drop-path are those of DeepViT's own training, the layer-wise
decay lies between those of ViTDet's trunks with 12 and with 24 blocks, and batch norms are frozen.
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type="DeepViT",
        arch="s",
        drop_path_rate=0.2,
        # Blocks 11 to 15 re-attend. Within windows of 14 x 14 their batch norms see attention maps of the size that the
        # statistics were taken from; those of 64 x 64 tokens have values twenty times smaller.
        global_blocks=(2, 5, 8, 10),
        norm_eval=True,
        init_cfg=dict(checkpoint="deepvit_s.pth"),
    ),
)
optim_wrapper = dict(
    paramwise_cfg=dict(layer_decay_rate=0.75, custom_keys={name: dict(decay_mult=0.0) for name in (".bn", "var_norm")})
)
