"""RevCol (arXiv:2212.11696) over its columns: box AP of a Mask R-CNN on the sample data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from backbones.datasets.sample import make_sample_coco
from backbones.papers._figures import SIZES, draw_lines, panels
from backbones.papers._runner import final
from backbones.papers._runs import BOX_AP, Comparison, Options, Result, Run
from backbones.papers.revcol import COLUMNS, EQUAL_MACS, WIDTH, arch, over_columns

IMAGES, HELD_OUT, SIDE = 400, 100, 160
EPOCHS = 4
WARM_UP = 100  # iterations


def runs() -> list[Run]:
    """Columns at equal width, and at equal MACs."""

    def run(series: str, columns: int, width: int) -> Run:
        sizes = arch(columns, width)
        options: Options = {f"model.backbone.arch.{key}": value for key, value in sizes.items()}
        options |= {"model.backbone.reversible": False, "model.neck.in_channels": list(sizes["channels"])}
        options |= {
            "train_cfg.max_epochs": EPOCHS,
            "train_cfg.val_interval": EPOCHS,
            "param_scheduler.0.end": WARM_UP,
            "param_scheduler.1.end": EPOCHS,
        }
        for loader in ("train_dataloader", "val_dataloader"):
            options |= {f"{loader}.num_workers": 0, f"{loader}.persistent_workers": False}
        return Run(series, columns, "revcol_maskrcnn_sample.py", options)

    return [
        *(run("equal width", columns, WIDTH) for columns in COLUMNS),
        *(run("equal MACs", columns, width) for columns, width in EQUAL_MACS.items()),
    ]


def make_data(folder: Path) -> None:
    """Make a small sample data set."""
    make_sample_coco(folder, IMAGES, HELD_OUT, SIDE, seed=0)


def draw(results: Sequence[Result], untrained: dict[str, Any]) -> Figure:
    """Box AP over columns."""
    figure, (axes,) = panels(1)
    draw_lines(axes, over_columns(results), final, xlabel="columns", ylabel="box AP")
    return figure


COMPARISON = Comparison(
    runs,
    {
        **SIZES,
        "box AP": final,
    },
    draw,
    seeds=(0,),
    metric=BOX_AP,
    make_data=make_data,
)
