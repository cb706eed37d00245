"""CaiT-S24, ImageNet-1k, 400 epochs: DeiT's recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/cait_imagenet.py --launcher pytorch

The authors' weights are distilled; their code for that is not released, and this config trains without.

LayerScale starts at 1e-5, as published for this depth. The number of epochs is the paper's; the authors' code sets
neither it nor the rate of drop path, which is that of a JAX port. Validation is on the centre of the image whose
short side is 224. The published file: python tools/test.py with this config and S24_224.pth
"""

_base_ = "./vit_imagenet.py"

model = dict(backbone=dict(type="CaiTTrunk", arch="s24"), head=dict(type="CaiTHead"))
train_cfg = dict(max_epochs=400)

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 224
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
