"""A small CeiT from scratch, photographs of flowers; made for two CPU cores.

Run:    python tools/train.py configs/ceit_flowers.py --data-root FOLDER
Result: in docs/RESULTS.md, beside the other families.
"""

_base_ = "./vit_flowers.py"

model = dict(backbone=dict(type="CeiTTrunk"), head=dict(type="CeiTHead"))
