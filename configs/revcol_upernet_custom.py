"""UPerNet, RevCol-T, a data set of your own: images and index masks in folders, classes in a text file.

    data/custom/
      images/train/NAME.jpg        annotations/train/NAME.png     8 bits, one channel: the number of each pixel's class,
      images/val/NAME.jpg          annotations/val/NAME.png       counted from 0; 255 is left out
      classes.txt                                                 one class a line, in the order of their numbers

Run:    python tools/train.py configs/revcol_upernet_custom.py --data-root FOLDER --classes auto
Result: in docs/RESULTS.md: a small RevCol on photographs of COCO with 27 classes.
"""

_base_ = "./revcol_upernet_ade20k.py"

data_root = "data/custom"
num_classes = 27

model = dict(
    decode_head=dict(num_classes=num_classes),
    auxiliary_head=dict(num_classes=num_classes),
)

load_masks = dict(type="LoadAnnotations")  # ADE20K's count from 1
train_pipeline = _base_.train_pipeline
train_pipeline[1] = load_masks
test_pipeline = _base_.test_pipeline
test_pipeline[2] = load_masks
dataset = dict(
    _delete_=True,
    type="BaseSegDataset",
    data_root=data_root,
    metainfo=dict(classes=f"{data_root}/classes.txt"),
)
train_dataloader = dict(
    dataset=dict(
        **dataset, data_prefix=dict(img_path="images/train", seg_map_path="annotations/train"), pipeline=train_pipeline
    )
)
val_dataloader = dict(
    dataset=dict(
        **dataset, data_prefix=dict(img_path="images/val", seg_map_path="annotations/val"), pipeline=test_pipeline
    )
)
test_dataloader = val_dataloader

max_iters = 20000
warm_up, poly = _base_.param_scheduler
param_scheduler = [warm_up, dict(poly, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000, max_keep_ckpts=2))
