"""Mask R-CNN, a small ViT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/make_sample_coco.py data/sample_coco
        python tools/train.py configs/vit_maskrcnn_sample.py
Result: in docs/RESULTS.md, beside the other families.

Heads, data, schedule and learning rate are those of revcol_maskrcnn_sample.py, for a comparison of equal trainings. A plain
ViT learns faster with optim_wrapper.optimizer.lr=5e-4: box AP50 .344 after two epochs, against .155 with 2e-3.
"""

_base_ = "./revcol_maskrcnn_sample.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="PlainViT",
        arch=dict(embed_dims=192, depth=6, num_heads=3),
        img_size=128,
        pyramid=dict(type="SimpleFeaturePyramid", out_channels=64),
    ),
    neck=dict(in_channels=[64] * 4),
)
