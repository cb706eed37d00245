"""RevCol (arXiv:2212.11696) over its columns: accuracy, supervision, disentangled levels, memory, errors of undoing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from backbones.info.memory import count_step
from backbones.look.cka import gram, linear_cka
from backbones.papers._figures import SIZES, draw_lines, grouped, panels
from backbones.papers._runner import final
from backbones.papers._runs import Comparison, Options, Result, Run, image_side, schedule

COLUMNS = (1, 2, 4, 8)
WIDTH = 16  # of the finest level
EQUAL_MACS = {1: 46, 2: 32, 4: 23}  # columns, and the width at which they cost as much as the most ones of WIDTH
SUPERVISED = (4, 8)
DEPTHS = (1, 1, 2, 1)
EPOCHS = 20
MEMORY_COLUMNS = (1, 2, 4, 8, 16)
KEEP_EVERY = (1, 2, 4, 8)
STEP = (8, 3, 64, 64)  # shape of the images whose step is measured


def arch(columns: int, width: int) -> dict[str, Any]:
    """Widths double from level to level."""
    return dict(channels=tuple(width * 2**level for level in range(4)), depths=DEPTHS, num_columns=columns)


def runs() -> list[Run]:
    """Columns at equal width, at equal MACs, and with intermediate supervision."""

    def run(series: str, columns: int, width: int, head: str) -> Run:
        named = {f"model.backbone.arch.{key}": value for key, value in arch(columns, width).items()}
        options: Options = {"model.head.type": head, "model.backbone.arch._delete_": True, **named}
        return Run(series, columns, "revcol_flowers.py", {**options, **image_side(64), **schedule(EPOCHS, 5)})

    return [
        *(run("equal width", columns, WIDTH, "RevColHead") for columns in COLUMNS),
        *(run("equal MACs", columns, width, "RevColHead") for columns, width in EQUAL_MACS.items()),
        *(run("equal width, supervised", columns, WIDTH, "SupervisedRevColHead") for columns in SUPERVISED),
    ]


def over_columns(results: Sequence[Result]) -> list[Result]:
    """The results, and once more the one in which the lines of equal width and equal MACs meet."""
    met = [{**r, "series": "equal MACs"} for r in results if r["series"] == "equal width" and r["x"] == max(COLUMNS)]
    return [*results, *met]


def measure(model: Any, images: Tensor, samples: list) -> dict[str, Any]:
    """CKA of every level of every column with images and labels, and the gradients' errors of each ``keep_every``."""
    images_cka, labels_cka = alignments(model, images, torch.cat([sample.gt_label for sample in samples]))
    return dict(images=images_cka, labels=labels_cka, errors=gradient_errors(model, images[: STEP[0]], samples))


@torch.no_grad()
def alignments(model: Any, images: Tensor, labels: Tensor) -> tuple[list[list[float]], list[list[float]]]:
    """CKA of the pooled levels with the pixels, and with the labels: for each column, for each level."""
    feats: list[list[Tensor]] = []
    net = model.backbone
    hooks = [
        column.register_forward_hook(lambda _, __, maps: feats.append([x.mean((1, 2)) for x in maps]))
        for column in net.columns
    ]
    try:
        net(images)
    finally:
        for hook in hooks:
            hook.remove()
    kernels = [[gram(x) for x in levels] for levels in feats]
    targets = gram(images), gram(F.one_hot(labels))
    pixels, classes = ([[linear_cka([k], [target]) for k in levels] for levels in kernels] for target in targets)
    return pixels, classes


def gradient_errors(model: Any, images: Tensor, samples: list) -> dict[str, float]:
    """Relative error of the gradients in float32, against the plain step in float64, in each memory mode."""
    exact = gradients(copy.deepcopy(model).double(), images.double(), samples, reversible=False)

    def error(**mode: Any) -> float:
        found = gradients(model, images, samples, **mode)
        return float((found - exact).norm() / exact.norm())

    modes = {f"keep_every={k}": error(reversible=True, keep_every=k) for k in KEEP_EVERY}
    return {"plain": error(reversible=False), **modes}


def gradients(model: Any, images: Tensor, samples: list, **mode: Any) -> Tensor:
    """All gradients of the loss as one vector, in float64."""
    net = model.backbone
    before = {name: getattr(net, name) for name in mode}
    for name, value in mode.items():
        setattr(net, name, value)
    loss, _ = model.parse_losses(model.loss(images, samples[: len(images)]))
    found = torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad])
    for name, value in before.items():
        setattr(net, name, value)
    return torch.cat([grad.flatten().double() for grad in found])


def memory() -> dict[str, Any]:
    """Bytes of a training step over the columns, in each memory mode."""
    device = torch.device("cpu")
    modes = {"plain": dict(), "reversible": dict(reversible=True), "keep_every=4": dict(reversible=True, keep_every=4)}
    peaks: dict[str, list[tuple[int, int]]] = {name: [] for name in modes}
    for columns in MEMORY_COLUMNS:
        counted = count_step(dict(type="backbones.RevCol", arch=arch(columns, WIDTH)), STEP, device)
        for name in modes:
            peaks[name].append((columns, next(size for mode, size in counted.items() if mode.startswith(name))))
    return dict(memory=peaks)


def draw(results: Sequence[Result], untrained: dict[str, Any]) -> Figure:
    """Accuracy and memory over columns, CKA of the levels column by column, and the errors of ``keep_every``."""
    figure, (accuracy, peak, cka, undone) = panels(4)
    draw_lines(accuracy, over_columns(results), final, xlabel="columns", ylabel="top-1 (%)")
    for mode, points in untrained["memory"].items():
        columns, sizes = zip(*points, strict=True)
        peak.plot(columns, [size / 2**20 for size in sizes], marker="o", markersize=3, label=mode)
    peak.set(xlabel="columns", ylabel=f"memory of a step (MiB), {STEP[0]} images of {STEP[2]} pixels")
    deepest = [r for r in results if r["series"] == "equal width" and r["x"] == max(COLUMNS)]
    for level, colour in enumerate(("C0", "C1", "C2", "C3")):
        for kind, style in (("images", ":"), ("labels", "-")):
            means = torch.tensor([result["end"][kind] for result in deepest]).mean(0)[:, level]
            cka.plot(range(1, len(means) + 1), means, style, color=colour, label=f"level {level}, {kind}")
    cka.set(xlabel=f"column of {max(COLUMNS)}", ylabel="CKA after the training")
    for (series, x), group in grouped(results).items():
        if series == "equal width":
            errors = [sum(r["end"]["errors"][f"keep_every={k}"] for r in group) / len(group) for k in KEEP_EVERY]
            undone.plot(KEEP_EVERY, errors, marker="o", markersize=3, label=f"{x} columns")
    undone.set(xlabel="keep_every", ylabel="relative error of the gradients after the training", yscale="log")
    cka.set_ylim(0, 1.15)  # room for the legend
    for axes in (peak, cka, undone):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", ncols=2 if axes is cka else 1)
    return figure


COMPARISON = Comparison(
    runs,
    {
        **SIZES,
        "top-1": final,
        "CKA of the coarsest level with the labels": lambda result: result["end"]["labels"][-1][-1],
        "error, plain": lambda result: result["end"]["errors"]["plain"],
        **{f"keep_every={k}": lambda result, k=k: result["end"]["errors"][f"keep_every={k}"] for k in KEEP_EVERY},
    },
    draw,
    measure=measure,
    measure_untrained=memory,
)
