"""RevColViT (arXiv:2212.11696, appendix) beside a ViT of equal MACs."""

from __future__ import annotations

from backbones.papers._figures import SIZES, accuracy_curves
from backbones.papers._runner import final
from backbones.papers._runs import Comparison, Run, image_side, schedule, vit

SIDE, PATCH = 128, 16
WIDTH = dict(embed_dims=64, num_heads=4)
DEPTHS, COLUMNS = (1, 1, 1, 1), 4
VIT_DEPTH = 17  # blocks that cost as much, within 2 %
EPOCHS = 40


def runs() -> list[Run]:
    """Four columns of four blocks, and one line of as many blocks as cost the same."""
    columns = {f"model.backbone.arch.{k}": v for k, v in dict(**WIDTH, depths=DEPTHS, num_columns=COLUMNS).items()}
    options = {**image_side(SIDE), "model.backbone.img_size": SIDE, **columns, **schedule(EPOCHS, 20)}
    line = {**vit(SIDE, PATCH, **WIDTH, depth=VIT_DEPTH), "model.head.type": "MeanPoolHead", **schedule(EPOCHS, 20)}
    return [
        Run("RevColViT", None, "revcol-vit_flowers.py", options),
        Run("ViT", None, "vit_flowers.py", line),
    ]


COMPARISON = Comparison(
    runs,
    {
        **SIZES,
        "top-1": final,
    },
    accuracy_curves,
)
