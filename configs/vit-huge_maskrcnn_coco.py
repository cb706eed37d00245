"""Mask R-CNN, ViTDet-H, COCO 2017, 75 epochs of large-scale jitter.

Run:    python tools/train.py configs/vit-huge_maskrcnn_coco.py   (64 GPUs of 1)
"""

_base_ = "./vit_maskrcnn_coco.py"

model = dict(
    backbone=dict(
        arch="huge-16",
        drop_path_rate=0.5,
        global_blocks=(7, 15, 23, 31),
        # MAE trained patches of 14 pixels; this is the authors' conversion to 16.
        init_cfg=dict(
            checkpoint="https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MAE/mae_pretrain_vit_huge_p14to16.pth"
        ),
    )
)
train_dataloader = dict(batch_size=1)
train_cfg = dict(max_iters=138281)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type="MultiStepLR", by_epoch=False, milestones=[122916, 133159], gamma=0.1),
]
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9, custom_keys=dict(_delete_=True)))  # everything decays
