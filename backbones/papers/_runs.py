"""A comparison and its trainings: shipped configs, and their changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

Options = dict[str, Any]  # keys and values of --cfg-options
Result = dict[str, Any]  # of a run, see ``backbones.papers._runner.Runner``
Measure = Callable[[Any, Tensor, list], dict[str, Any]]  # of a classifier, on normalised images and their data samples
TOP1, BOX_AP = "accuracy/top1", "coco/bbox_mAP"  # metrics, as mmengine logs them


@dataclass(frozen=True)
class Run:
    """A training, once for each seed.

    Attributes:
        series: Its line in the figure.
        x: Its place on the line: depth, epochs or columns; None where the figure has bars.
        config: Name of a shipped config.
        options: Changes of the config.
        weights: Options that name a checkpoint, and the series of the earlier run whose last one it is.
    """

    series: str
    x: int | None
    config: str
    options: Options
    weights: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Its folder among those of its comparison."""
        name = self.series if self.x is None else f"{self.series} {self.x}"
        return re.sub(r"\W+", "-", name)


@dataclass(frozen=True)
class Comparison:
    """The networks of a claim.

    Attributes:
        runs: The trainings, in their order.
        columns: Of the table: heading, and the value of a result.
        draw: The figure of the results of all seeds, and of what ``measure_untrained`` gave.
        seeds: Its seeds.
        metric: The metric that is followed.
        measure: Measures a network before and after the training.
        measure_untrained: Measures what needs no training.
        make_data: Makes the data in a folder, for a comparison that does not train on photographs.
    """

    runs: Callable[[], list[Run]]
    columns: Mapping[str, Callable[[Result], float]]
    draw: Callable[[Sequence[Result], dict[str, Any]], Figure]
    seeds: tuple[int, ...] = (0, 1, 2)
    metric: str = TOP1
    measure: Measure | None = None
    measure_untrained: Callable[[], dict[str, Any]] | None = None
    make_data: Callable[[Path], object] | None = None


def schedule(epochs: int, evaluations: int) -> Options:
    """Options for the number of epochs, at least 2, and of evaluations; the learning rate falls until the last."""
    interval, warm_up = max(1, epochs // evaluations), max(1, min(5, epochs // 4))
    return {
        "train_cfg.max_epochs": epochs,
        "train_cfg.val_interval": interval,
        "param_scheduler.0.end": warm_up,
        "param_scheduler.1.begin": warm_up,
        "param_scheduler.1.end": epochs,
        "default_hooks.checkpoint.interval": interval,
    }


def image_side(side: int) -> Options:
    """Options for square crops of the photographs, in pixels."""
    resized = side * 9 // 8
    return {
        "train_dataloader.dataset.pipeline.1.scale": side,
        "val_dataloader.dataset.pipeline.1.scale": (resized, resized),
        "val_dataloader.dataset.pipeline.2.crop_size": side,
    }


def vit(side: int, patch_size: int, **arch: Any) -> Options:
    """Options for the size of a transformer and of its images."""
    named = {f"+model.backbone.arch.{key}": value for key, value in {"patch_size": patch_size, **arch}.items()}
    return {**image_side(side), "model.backbone.img_size": side, **named}
