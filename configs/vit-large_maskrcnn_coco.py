"""Mask R-CNN, ViTDet-L, COCO 2017, 100 epochs of large-scale jitter.

Run:    python tools/train.py configs/vit-large_maskrcnn_coco.py   (32 GPUs of 2)
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    backbone=dict(
        arch="large",
        drop_path_rate=0.4,
        global_blocks=(5, 11, 17, 23),
        init_cfg=dict(checkpoint="https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_large.pth"),
    )
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
