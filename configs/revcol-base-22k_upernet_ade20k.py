"""UPerNet, RevCol-B, ADE20K, crops of 640, 160k iterations: the official recipe for ImageNet-22k weights.

Run:    python tools/train.py configs/revcol-base-22k_upernet_ade20k.py   (weights: see revcol_upernet_ade20k.py)
"""

_base_ = "./revcol-base_upernet_ade20k.py"

scale, crop_size = (2560, 640), (640, 640)
model = dict(data_preprocessor=dict(size=crop_size), test_cfg=dict(crop_size=crop_size))

train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = scale
train_pipeline[3].crop_size = crop_size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = scale
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.9))
