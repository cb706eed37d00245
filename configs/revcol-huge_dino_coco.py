"""DINO with five scales, RevCol-H, COCO 2017, after Objects365: the route of the paper's best detector.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/revcol-huge_dino_coco.py --launcher pytorch --auto-scale-lr

The authors released no config; revcol-huge_dino_objects365.py, which comes first, has the sources. Chosen
here: 18 epochs with decay at five sixths, 16 images a step, and images 1.5 times as large in training and testing.

Everything but the class-dependent parts is loaded from the last epoch of the Objects365 stage. These are initialised: the
seven classifiers (bbox_head.cls_branches) and the labels' embedding for denoising (dn_query_generator.label_embedding).
These are the parts DINO's own fine-tuning leaves out; mmengine prints each as a "size mismatch", and nothing else.
"""

_base_ = "./revcol-huge_dino_objects365.py"

load_from = "work_dirs/revcol-huge_dino_objects365/epoch_26.pth"
model = dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes=80))  # load_from has the backbone's weights, too

short_sides = [(side * 3 // 2, 2000) for side in range(480, 801, 32)]
resize = dict(type="RandomChoiceResize", scales=short_sides, keep_ratio=True)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomChoice",
        transforms=[
            [resize],
            [
                dict(type="RandomChoiceResize", scales=[(600, 6300), (750, 6300), (900, 6300)], keep_ratio=True),
                dict(type="RandomCrop", crop_type="absolute_range", crop_size=(576, 900), allow_negative_crop=True),
                resize,
            ],
        ],
    ),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2000, 1200), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
data_root = "data/coco/"
dataset = dict(type="CocoDataset", data_root=data_root)
train_dataloader = dict(
    dataset=dict(
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        pipeline=train_pipeline,
        **dataset,
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        pipeline=test_pipeline,
        **dataset,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=18)
param_scheduler = [dict(type="MultiStepLR", begin=0, end=18, by_epoch=True, milestones=[15], gamma=0.1)]
auto_scale_lr = dict(base_batch_size=16)
