"""A small CaiT from scratch, photographs of flowers; made for two CPU cores.

Run:    python tools/train.py configs/cait_flowers.py --data-root FOLDER
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_flowers.py"

model = dict(
    backbone=dict(type="CaiTTrunk", arch=dict(num_heads=4, layer_scale_init_value=0.1)),
    head=dict(type="CaiTHead"),
)
