"""MAE pre-training of a small ViT on a few hundred photographs; made for one CPU core.

Run:    python tools/train.py configs/vit_mae-pretrain_flowers.py --data-root FLOWERS
Result: in docs/RESULTS.md.
"""

_base_ = "./vit_mae-pretrain_imagenet.py"

model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=192, depth=6, num_heads=3), img_size=128),
    decoder_embed_dims=96,
    decoder_depth=2,
    decoder_num_heads=3,
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 128
train_dataloader = dict(batch_size=50, num_workers=1, dataset=dict(pipeline=train_pipeline))

max_epochs = 100
optim_wrapper = dict(optimizer=dict(lr=1e-3))
warm_up, cosine = _base_.param_scheduler
param_scheduler = [dict(warm_up, end=10), dict(cosine, begin=10, end=max_epochs, T_max=max_epochs - 10)]
train_cfg = dict(max_epochs=max_epochs)
