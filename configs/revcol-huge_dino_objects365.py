"""DINO with five scales, RevCol-H, Objects365 v2: the pre-training stage of revcol-huge_dino_coco.py.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-huge_dino_objects365.py --launcher pytorch \
            --auto-scale-lr

The authors released no detection config of RevCol-H. From the paper (arXiv:2212.11696): RevCol-H, pre-trained on their
168 M images, in DINO, with Objects365 before COCO. From their segmentation config of RevCol-H: drop path, layer decay,
mixed precision, alphas without weight decay. From mmdet's DINO with Swin-L: five scales, heads, losses, augmentation,
AdamW. Chosen here: Objects365 v2 (the larger edition, 1.7 M images), 26 epochs with decay at five sixths, 64 images a
step, kernels as pre-trained (3x3).

The backbone starts from the authors' weights, which are downloaded at the first start. Weights, gradients and AdamW's
moments alone take 35 GB on each GPU, or are divided over them by --shard (docs/learn/sharding.md): one image a GPU, as
in that segmentation config.

The detector has 2,182,303,183 parameters in OneDL and 2,182,172,111 upstream: OneDL's decoder embeds reference boxes in
1024 channels, upstream's in 512, so weights of decoder.ref_point_head.layers.0 do not move between the two.
"""

_base_ = "mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py"
custom_imports = dict(imports=["backbones"], allow_failed_imports=False)
pretrained = None  # Swin's

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),  # each level is exactly half of the one before, so that they align
    backbone=dict(
        _delete_=True,
        type="RevCol",
        arch="huge",
        drop_path_rate=0.3,
        # Training at 1333x800 is bound by memory; the same gradients for at most a third more backbone arithmetic.
        reversible=True,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://huggingface.co/LarryTsai/RevCol/resolve/main/revcol_models/classification/"
            "revcol_huge_megdata.pth",
        ),
    ),
    neck=dict(in_channels=[360, 720, 1440, 2880]),
    bbox_head=dict(num_classes=365),
)

data_root = "data/Objects365/Obj365_v2/"  # as in mmdet's Objects365 configs
dataset = dict(type="Objects365V2Dataset", data_root=data_root)
train_dataloader = dict(
    batch_size=1,
    dataset=dict(ann_file="annotations/zhiyuan_objv2_train.json", data_prefix=dict(img="train/"), **dataset),
)
val_dataloader = dict(
    dataset=dict(ann_file="annotations/zhiyuan_objv2_val.json", data_prefix=dict(img="val/"), **dataset)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/zhiyuan_objv2_val.json")
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=26)
param_scheduler = [dict(type="MultiStepLR", begin=0, end=26, by_epoch=True, milestones=[22], gamma=0.1)]
auto_scale_lr = dict(base_batch_size=64)
optim_wrapper = dict(
    type="AmpOptimWrapper",  # in float16: mmcv's deformable attention has no kernel for bfloat16
    constructor="DenseLayerDecayOptimWrapperConstructor",
    # In place of DINO's 0.1 for the whole backbone: from 0.135 in the stem to 0.9 in the last blocks.
    paramwise_cfg=dict(_delete_=True, layer_decay_rate=0.9, custom_keys={"alpha": dict(decay_mult=0.0)}),
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))  # 26 GB each
