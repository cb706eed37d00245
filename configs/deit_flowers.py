"""A small DeiT, distilled from the RevCol of revcol_flowers.py, photographs of flowers; made for two CPU cores.

Run:    python tools/train.py configs/revcol_flowers.py --data-root FOLDER        (the teacher)
        python tools/train.py configs/deit_flowers.py --data-root FOLDER
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_flowers.py"

model = dict(
    type="DistilledClassifier",
    backbone=dict(type="DeiTTrunk"),
    head=dict(type="DistilledHead", kind="hard", weight=0.5),
    teacher=dict(
        type="DenseClassifier",
        backbone=dict(type="RevCol", arch="nano"),
        head=dict(type="SupervisedRevColHead", num_classes=5),
        data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/revcol_flowers/epoch_170.pth"),
    ),
)
