"""MAE pre-training of ViT-B, ImageNet-1k, 1600 epochs: the official recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/vit_mae-pretrain_imagenet.py --launcher pytorch

    data/imagenet/train/n01440764/*.JPEG  ...      or any folder of folders of images: --data-root; labels are not read

AdamW 1.5e-4 for 256 images, times 16 for the 4096 of a step (8 GPUs of 512; --auto-scale-lr for other numbers), 40
epochs of warm-up, cosine to 0, mixed precision; crops and flips of 224 pixels, nothing else. A checkpoint starts a
detector as it is: --cfg-options model.backbone.init_cfg.checkpoint=work_dirs/vit_mae-pretrain_imagenet/epoch_1600.pth
"""

_base_ = "mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-1600e_in1k.py"
custom_imports = dict(imports=["backbones.classification"], allow_failed_imports=False)

model = dict(
    _delete_=True,
    type="MaskedAutoencoder",
    backbone=dict(type="ViTTrunk", arch="base", pos_embed="sincos"),
)
# As in the official code: parameters of one dimension (norms and biases) do not decay.
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, flat_decay_mult=0.0))
train_dataloader = dict(
    collate_fn=dict(_delete_=True, type="default_collate"),  # mmengine passes on the _scope_ that an inherited one has
    dataset=dict(metainfo=dict(classes=None)),  # any folders, where mmpretrain's names insist on 1000
)
resume = False  # tools/train.py --resume
