"""Mask R-CNN, a small ViT from scratch, the sample data set; made for two CPU cores.

Run:    python tools/make_sample_coco.py data/sample_coco
        python tools/train.py configs/vit_maskrcnn_sample.py
Result: not yet run here.

Heads, data and schedule are those of revcol_maskrcnn_sample.py; the learning rate is a quarter of RevCol's, with which
two epochs bring a box AP50 of .155 instead of .344.
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
optim_wrapper = dict(optimizer=dict(lr=5e-4))
