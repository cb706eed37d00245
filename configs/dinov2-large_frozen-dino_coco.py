"""DINO with five scales, DINOv2-L with registers, frozen, COCO 2017, 12 epochs. Not yet run here.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/dinov2-large_frozen-dino_coco.py --launcher pytorch

From mmdet's DINO with Swin-L: five scales, heads, losses, augmentation, schedule, AdamW 1e-4 for 16 images a step.
Taps of the blocks (4, 11, 17, 23), as in DINOv3's segmentation of 24 blocks. Chosen here: the rest, which is the
pyramid, trained at the full rate, and mixed precision. DINOv3's own detector is another one (Plain-DETR on all four
taps at one stride).

The weights are downloaded at the first start; their licence is Apache-2.0. A config with type="DINOv3" and without
registers takes DINOv3-L's, which are given on request.
"""

_base_ = "mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py"
custom_imports = dict(imports=["backbones"], allow_failed_imports=False)
pretrained = None  # Swin's

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),  # each level is exactly half of the one before, so that they align
    backbone=dict(
        _delete_=True,
        type="DINOv2",
        arch="large",
        registers=4,
        frozen_stages=24,
        pyramid="taps",
        taps=(4, 11, 17, 23),
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth",
        ),
    ),
    neck=dict(in_channels=[1024] * 4),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",  # in float16: mmcv's deformable attention has no kernel for bfloat16
    constructor="DenseLayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=1.0, flat_decay_mult=1.0),
)
sync_bn = "torch"  # the pyramid has a batch norm
