"""The hybrid of ResNet and ViT (arXiv:2010.11929) is ahead of ViT in short trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from backbones.papers._figures import SIZES, draw_lines, panels
from backbones.papers._runner import final
from backbones.papers._runs import Comparison, Options, Result, Run, image_side, schedule

EPOCHS = (10, 20, 40, 80)


def runs() -> list[Run]:
    """Trainings of several lengths, each with its own schedule, of two networks of equal size."""

    def run(series: str, config: str, epochs: int, **arch: Any) -> Run:
        named = {f"model.backbone.arch.{key}": value for key, value in arch.items()}
        options: Options = {**image_side(64), "model.backbone.img_size": 64, **named, **schedule(epochs, 2)}
        return Run(series, epochs, config, options)

    hybrid = dict(embed_dims=96, depth=4, stage_channels=(128, 128, 256))
    return [
        *(run("ViT", "vit_flowers.py", epochs, embed_dims=96, depth=6) for epochs in EPOCHS),
        *(run("hybrid", "hybrid-vit_flowers.py", epochs, **hybrid) for epochs in EPOCHS),
    ]


def draw(results: Sequence[Result], untrained: dict[str, Any]) -> Figure:
    """Accuracy over the length of the training."""
    figure, (axes,) = panels(1)
    draw_lines(axes, results, final, xlabel="epochs of the training", ylabel="top-1 (%)", xscale="log")
    axes.set_xticks(EPOCHS, list(map(str, EPOCHS)), minor=False)
    axes.minorticks_off()
    return figure


COMPARISON = Comparison(
    runs,
    {
        **SIZES,
        "top-1": final,
    },
    draw,
)
