"""UPerNet, RevCol-H, ADE20K, crops of 640, 160k iterations: the official recipe.

Run:    python tools/train.py configs/revcol-huge_upernet_ade20k.py   (weights: see revcol_upernet_ade20k.py)

One image per GPU, 8 GPUs; --shard divides the model over them (docs/learn/sharding.md). Where the authors recompute
each column in backward, ours are reversible.
"""

_base_ = "./revcol-large_upernet_ade20k.py"

channels = [360, 720, 1440, 2880]
model = dict(
    backbone=dict(
        # The huge preset with larger kernels: those of the classifier, 3x3, are padded with zeros at load.
        arch=dict(_delete_=True, channels=channels, depths=(1, 2, 6, 2), num_columns=8, top_link=True, kernel_size=7)
    ),
    decode_head=dict(in_channels=channels, channels=1440),
    auxiliary_head=dict(in_channels=1440),
)
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
