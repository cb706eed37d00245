"""A classifier's confusion matrix and its most confident mistakes."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from mmengine import fileio
from mmengine.evaluator import BaseMetric

from backbones.usage import note

WRITTEN_CELLS = 30  # classes up to which the cells of a confusion matrix hold numbers
WRITTEN_NAMES = 100  # classes up to which its rows and columns have names
CONFUSIONS = 40  # listed beside a matrix without numbers
GRID = (4, 6)  # rows and columns of mistakes
DPI = 100


class Guess(NamedTuple):
    """A classifier's prediction for an image."""

    path: str  # empty if the image has no file of its own
    label: int  # the true one
    guess: int
    score: float


class ClassificationPictures(BaseMetric):
    """Writes ``confusion_matrix.png`` and ``mistakes.png``; measures nothing.

    Args:
        folder: Folder of the pictures.
        classes: Class names, or None for numbers.
    """

    default_prefix = "pictures"  # mmengine warns without one

    def __init__(self, folder: str, classes: Sequence[str] | None) -> None:
        super().__init__()
        self.folder, self.classes = Path(folder), classes

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collect the predictions of a batch."""
        for sample in data_samples:
            self.number = len(sample["pred_score"])
            score, guess = sample["pred_score"].max(0)
            self.results.append(Guess(sample.get("img_path", ""), int(sample["gt_label"]), int(guess), float(score)))

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Draw the pictures; returns no metrics."""
        from mmpretrain.evaluation import ConfusionMatrix

        guesses = [Guess(*result) for result in results]  # mmengine makes plain tuples of them
        names = readable_names(self.classes or [str(i) for i in range(self.number)])
        counts = ConfusionMatrix.calculate([g.guess for g in guesses], [g.label for g in guesses], self.number)
        self.folder.mkdir(parents=True, exist_ok=True)
        draw_confusion_matrix(np.asarray(counts), names).savefig(self.folder / "confusion_matrix.png", dpi=DPI)
        if all(g.path for g in guesses):
            draw_mistakes(guesses, names).savefig(self.folder / "mistakes.png", dpi=DPI)
        else:
            note("--show-dir: the data set has no image files, so there is no mistakes.png")
        return {}


def readable_names(classes: Sequence[str]) -> list[str]:
    """Short class names; for the 1000 folders of ImageNet, which are WordNet numbers, the words."""
    if len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes):
        from mmpretrain.datasets.categories import IMAGENET_CATEGORIES

        classes = IMAGENET_CATEGORIES
    names = [name.partition(",")[0] for name in classes]  # the first of several synonyms
    return [name if len(name) <= 24 else f"{name[:22]}..." for name in names]


def draw_confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix; colours are shares of a row, in per cent.

    Args:
        counts: Images by true class (rows) and predicted class (columns).
        names: Class names. Up to ``WRITTEN_CELLS`` of them, cells hold count and share; beyond, the largest confusions
            are listed beside the matrix.
    """
    n, totals = len(names), counts.sum(1)
    shares = 100 * counts / np.maximum(totals, 1)[:, None]
    written = n <= WRITTEN_CELLS
    side = max(5, 0.62 * n) if written else max(9, 0.15 * min(n, WRITTEN_NAMES))
    figure = Figure(figsize=(side + (2 if written else 7), side + 0.6), layout="constrained")
    if written:
        axis = figure.subplots()
        mesh = axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    else:  # a linear scale would not show the few per cent off the diagonal
        axis, beside = figure.subplots(1, 2, width_ratios=(side, 5))
        mesh = axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, 0, 100), interpolation="nearest")
        _list_confusions(beside, counts, shares, names)
    figure.colorbar(mesh, ax=axis, label="% of the true class", shrink=0.7, aspect=40)
    top1 = 100 * np.trace(counts) / max(counts.sum(), 1)
    axis.set(title=f"top-1 {top1:.2f} % of {counts.sum()} images", xlabel="predicted class", ylabel="true class")
    if n <= WRITTEN_NAMES:
        rows = [f"{name} ({total})" for name, total in zip(names, totals, strict=True)]
        small: dict[str, Any] = dict(fontsize=10 if written else 7)
        axis.set_xticks(range(n), names, rotation=45 if written else 90, ha="right" if written else "center", **small)
        axis.set_yticks(range(n), rows, **small)
    if written:
        for i, j in np.argwhere(counts):
            colour = "white" if shares[i, j] > 50 else "black"
            text = f"{counts[i, j]}\n{shares[i, j]:.0f} %"
            axis.text(j, i, text, ha="center", va="center", color=colour, fontsize=10 if n <= 10 else 8)
    return figure


def _list_confusions(axis: Axes, counts: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> None:
    axis.axis("off")
    wrong = np.where(np.eye(len(names), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [pair for pair in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[pair]]
    lines = [f"{counts[i, j]:6}  {shares[i, j]:3.0f} %  {names[i]} -> {names[j]}" for i, j in pairs]
    head = "most frequent confusions\n\n images  share  true -> predicted"
    axis.text(0, 1, "\n".join([head, *lines]), va="top", family="monospace", fontsize=11, transform=axis.transAxes)


def draw_mistakes(guesses: Sequence[Guess], names: Sequence[str]) -> Figure:
    """Draw a grid of the mistakes with the highest scores: predictions above the images, true classes below."""
    mistakes = sorted((g for g in guesses if g.guess != g.label), key=lambda g: -g.score)
    shown = mistakes[: math.prod(GRID)]
    rows = max(1, math.ceil(len(shown) / GRID[1]))
    figure = Figure(figsize=(2.3 * GRID[1], 2.8 * rows + 0.6), layout="constrained")
    count = f"the {len(shown)} most confident of {len(mistakes)}" if len(mistakes) > len(shown) else f"{len(mistakes)}"
    figure.suptitle(f"{count} mistakes in {len(guesses)} images")
    axes = figure.subplots(rows, GRID[1], squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, mistake in zip(axes, shown, strict=False):
        axis.imshow(mmcv.imfrombytes(fileio.get(mistake.path), channel_order="rgb"))
        axis.set_title(f"{names[mistake.guess]} {mistake.score:.2f}", color="firebrick", fontsize=10)
        below = dict(ha="center", va="top", transform=axis.transAxes, color="darkgreen", fontsize=10)
        axis.text(0.5, -0.03, f"true: {names[mistake.label]}", **below)
    return figure
