"""DeepViT-S, ImageNet-1k, 300 epochs: DeiT's recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/deepvit_imagenet.py --launcher pytorch

Official are the drop path and the normalisation of images; the rest of the official settings could not be verified and is
DeiT's. Validation is on the centre of the image whose short side is 248.
"""

_base_ = "./vit_imagenet.py"

pixels = dict(mean=[127.5] * 3, std=[127.5] * 3)
data_preprocessor = pixels
model = dict(backbone=dict(type="DeepViTTrunk", arch="s", drop_path_rate=0.2))

train_pipeline = _base_.train_pipeline
train_pipeline[3].hparams.pad_val = [128] * 3
train_pipeline[4].update(fill_color=pixels["mean"], fill_std=pixels["std"])
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 248
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
