"""Columns: their maps, what each adds, their similarity with image and labels, and the memory of training them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from backbones.info.memory import measure_step
from backbones.look.cka import LEAST, gram, linear_cka
from backbones.look.colors import energy_colors, pca_colors
from backbones.look.levels import THUMBNAIL, pair, photograph
from backbones.look.record import Look, View, columns_of, recorded_columns
from backbones.look.subject import Photo, Subject, labels, spread, squash
from backbones.pictures.html import chart, grid, picture

SIDE = 224  # pixels, of the images that are compared, and of the training step
BATCH = 16  # images that are compared at a time
SIZES = 4  # numbers of columns whose memory is measured, at most
TEXT = """<h2>Columns</h2>
<p>Each level, column by column. Above, the principal components of its maps, the same for all columns. Below, the
energy of what the column adds to the previous one's map, on one scale for all columns. The share compares the norm of
what is added with that of what the shortcut keeps.</p>"""
SIMILARITY_TEXT = """<h3>Similarity with image and labels</h3>
<p>Linear CKA, the similarity of two representations of the same images (1: equal up to rotation and scale, 0:
unrelated), of each map with the pixels, and with the labels. The paper's claim: from column to column the coarse levels
leave the image and approach the labels, while the fine ones keep the image.</p>"""


def show(look: Look) -> Iterator[str]:
    """The columns' maps, their similarities, and their memory; nothing for a backbone without columns."""
    if not columns_of(look.subject.backbone):
        return
    yield TEXT
    for view in look.views:
        for level in range(len(view.columns[0].maps)):
            yield f"<h4>Level {level}</h4>"
            yield grid([photograph(view.photo, THUMBNAIL), *level_figures(view, level)], "strip")
    yield SIMILARITY_TEXT
    yield from similarity_section(look)
    yield memory_section(look.subject)


def level_figures(view: View, level: int) -> Iterator[str]:
    """The map of a level in each column, and what the column adds."""
    maps = [column.maps[level][0].permute(2, 0, 1) for column in view.columns]
    added = [column.added(level)[0].permute(2, 0, 1) for column in view.columns]
    pictures = zip(view.columns, pca_colors(maps), energy_colors(added), strict=True)
    for i, (column, components, energy) in enumerate(pictures):
        share = added_share(column.added(level), column.kept(level))
        caption = f"column {i} adds {share:.0%}"
        yield pair(picture(components, "principal components"), picture(energy, "energy of what is added"), caption)


def added_share(added: Tensor, kept: Tensor) -> float:
    """Norm of what a column adds, divided by the sum of this norm and that of what it keeps; 1 in the first column."""
    return float(added.norm() / (added.norm() + kept.norm()))


def similarity_section(look: Look) -> Iterator[str]:
    """CKA of each level and column with the image, and with the labels if the photographs lie in folders of classes."""
    if len(look.photos) < LEAST:
        yield (
            f"<p>Not computed for {len(look.photos)} photographs: it compares images with one another, at least "
            f"{LEAST}, better 50 or more. Folders of classes give the labels.</p>"
        )
        return
    classes = labels(look.photos)
    similarities = column_similarities(look.subject, look.photos, classes)
    figures = [similarity_chart(values, name, len(look.photos)) for name, values in similarities.items()]
    yield grid(figures, "charts")
    if classes is None:
        yield "<p>No labels: the photographs do not lie in folders of classes.</p>"


@torch.no_grad()
def column_similarities(
    subject: Subject, photos: Sequence[Photo], classes: Sequence[str] | None
) -> dict[str, np.ndarray]:
    """Linear CKA of the maps with ``image`` and ``labels``, each ``(levels, columns)``.

    Args:
        subject: The model.
        photos: At least 4.
        classes: Of each photograph, or None, which leaves out ``labels``.
    """
    order = np.random.default_rng(0).permutation(len(photos))  # classes are mixed in every batch
    targets: dict[str, list[Tensor]] = {"image": []} | ({} if classes is None else {"labels": []})
    names = sorted(set(classes or ()))
    grams: list[list[list[Tensor]]] = []  # of each column and level, a list over the batches
    for batch in np.array_split(order, -(-len(photos) // BATCH)):
        images = subject.images(np.stack([squash(photos[i].pixels, SIDE) for i in batch]))
        targets["image"].append(gram(images))
        if classes is not None:
            numbers = torch.tensor([names.index(classes[int(i)]) for i in batch])
            targets["labels"].append(gram(F.one_hot(numbers, len(names))))
        with recorded_columns(subject.backbone) as columns:
            subject.backbone(images)
        grams = grams or [[[] for _ in column.maps] for column in columns]
        for found, column in zip(grams, columns, strict=True):
            for level, maps in zip(found, column.maps, strict=True):
                level.append(gram(maps))
    return {
        name: np.array([[linear_cka(level, target) for level in column] for column in grams]).T
        for name, target in targets.items()
    }


def similarity_chart(values: np.ndarray, name: str, count: int) -> str:
    """Similarities ``(levels, columns)`` as coloured cells with their numbers."""
    levels, columns = values.shape
    figure = Figure(figsize=(max(4.0, 1.2 + 0.55 * columns), 0.9 + 0.6 * levels), layout="constrained")
    axis = figure.add_subplot()
    mesh = axis.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(mesh, ax=axis)
    axis.set(xlabel="column", ylabel="level", xticks=range(columns), yticks=range(levels))
    for (level, column), value in np.ndenumerate(values):
        color = "black" if value > 0.6 else "white"
        axis.text(column, level, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
    return chart(figure, f"linear CKA with the {name}, {count} photographs of {SIDE} x {SIDE} pixels")


def memory_section(subject: Subject) -> str:
    """Memory of a training step over the number of columns, in each memory mode."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axis = figure.add_subplot()
    numbers: list[int] = []
    for mode, points in memory_over_columns(subject).items():
        numbers = sorted({*numbers, *points})
        axis.plot(list(points), [size / 2**20 for size in points.values()], marker="o", label=mode)
    axis.set(xlabel="columns", ylabel="activations, MiB", ylim=(0, None), xticks=numbers)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    caption = (
        f"activations at the peak of a training step of the whole backbone, one image of {SIDE} x {SIDE} pixels in "
        "float32, measured; they grow with the number of pixels"
    )
    return f"<h3>Memory</h3>{grid([chart(figure, caption)], 'charts')}"


def memory_over_columns(subject: Subject) -> dict[str, dict[int, int]]:
    """Memory mode -> number of columns -> bytes, up to this model's number."""
    backbone, settings = subject.backbone, dict(subject.settings)
    arch = settings.get("arch", inspect.signature(type(backbone)).parameters["arch"].default)
    arch = backbone.parse_arch(arch)
    settings.pop("init_cfg", None)
    settings["frozen_stages"] = -1  # may freeze more columns than there are
    found: dict[str, dict[int, int]] = {_plain(mode): {} for mode in backbone.memory_modes()}
    for number in [i + 1 for i in spread(arch["num_columns"], SIZES)]:
        given: dict[str, Any] = {**settings, "arch": {**arch, "num_columns": number}}
        measured = measure_step(given, (1, 3, SIDE, SIDE), next(backbone.parameters()).device)
        for mode, size in measured.items():
            if _plain(mode) in found:
                found[_plain(mode)][number] = size
    return found


def _plain(mode: str) -> str:
    """The name of a mode without the mark of what ``'auto'`` starts with, which depends on the number of columns."""
    return mode.partition(" (")[0]
