"""DeiT-B with hard distillation from RegNetY-16GF, ImageNet-1k, 300 epochs: the official recipe.

Run:    torchrun --nproc_per_node=8 tools/train.py configs/deit-distilled_imagenet.py --launcher pytorch

The teacher is any classifier of mmpretrain or timm for the same classes and the same normalisation of images; it sees
the student's images. This one, the paper's, is downloaded by timm at the first start and has to be named in full: timm's
plain "regnety_160" is another network's weights by now. For soft distillation: --cfg-options model.head.kind=soft
model.head.temperature=3 model.head.weight=0.1
The published file: python tools/test.py with this config and deit_base_distilled_patch16_224-df68dfff.pth
"""

_base_ = "./vit_imagenet.py"

model = dict(
    type="DistilledClassifier",
    backbone=dict(type="DeiTTrunk"),
    head=dict(type="DistilledHead", kind="hard", weight=0.5),
    teacher=dict(type="TimmClassifier", model_name="regnety_160.deit_in1k", pretrained=True),
)
