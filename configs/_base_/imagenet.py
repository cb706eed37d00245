"""Images in a folder for each class, ImageNet among them: augmentation as for DeiT, ConvNeXt and RevCol, top-1 and top-5.

    data/imagenet/
      train/n01440764/*.JPEG  ...      The classes are the folders in alphabetical order, for ImageNet the official one.
      val/n01440764/*.JPEG    ...

Images of 224: random crop (bicubic) and flip, RandAugment rand-m9-n2-mstd0.5-inc, erasing 0.25; validation on the centre
of the image whose short side is 256. 64 images a GPU. Mixup, cutmix and label smoothing belong to the model.

Folders of your own: --data-root FOLDER --classes auto
"""

_base_ = ["mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py", "mmpretrain::_base_/default_runtime.py"]

data_preprocessor = dict(_delete_=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
by_folders = dict(metainfo=dict(classes=None))  # the names of mmpretrain's ImageNet insist on 1000 folders
train_dataloader = dict(dataset=by_folders)
val_dataloader = dict(dataset=by_folders)
test_dataloader = val_dataloader
