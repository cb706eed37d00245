"""CeiT (arXiv:2103.11816): its convolutions, and the class tokens of all layers, shorten the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from backbones.ceit import CeiTTrunk
from backbones.papers._figures import draw_curves, panels
from backbones.papers._runner import final
from backbones.papers._runs import Comparison, Options, Result, Run, image_side, schedule, vit
from backbones.trunk import Block, Trunk

SIDE = 64
EPOCHS = 40
REACHED = 50  # top-1 in per cent
HERE = "backbones.papers.ceit"


class PlainPatches(CeiTTrunk):
    """CeiT without the image-to-tokens stem."""

    def make_patch_embed(self, settings: Mapping[str, Any]) -> nn.Module:
        return Trunk.make_patch_embed(self, settings)


class PlainFeedForward(CeiTTrunk):
    """CeiT without convolutions in its blocks."""

    def make_feedforward(self, settings: Mapping[str, Any]) -> nn.Module:
        return Trunk.make_feedforward(self, settings)

    def make_block(self, index: int, settings: Mapping[str, Any], **kwargs: Any) -> Block:
        return Trunk.make_block(self, index, settings, **kwargs)


def runs() -> list[Run]:
    """ViT, DeiT with its teacher, CeiT, and CeiT without each of its three parts."""

    def run(series: str, config: str, weights: Mapping[str, str] | None = None, **changes: str) -> Run:
        options: Options = {f"model.{part}.type": kind for part, kind in changes.items()}
        arch = dict(embed_dims=64, depth=6, num_heads=4)
        return Run(series, None, config, {**options, **vit(SIDE, 8, **arch), **schedule(EPOCHS, 20)}, weights or {})

    teacher: Options = {**image_side(SIDE), **schedule(EPOCHS, 4)}
    taught = {"model.teacher.init_cfg.checkpoint": "teacher of DeiT (RevCol)"}
    return [
        Run("teacher of DeiT (RevCol)", None, "revcol_flowers.py", teacher),
        run("ViT", "vit_flowers.py"),
        run("DeiT", "deit_flowers.py", taught),
        run("CeiT", "ceit_flowers.py"),
        run("CeiT without I2T", "ceit_flowers.py", backbone=f"{HERE}.PlainPatches"),
        run("CeiT without LeFF", "ceit_flowers.py", backbone=f"{HERE}.PlainFeedForward"),
        run("CeiT without LCA", "ceit_flowers.py", head="ClassTokenHead"),
    ]


def epochs_to_reach(result: Result) -> float:
    """The first epoch with at least ``REACHED`` per cent; NaN if there is none."""
    return next((epoch for epoch, top1 in result["curve"] if top1 >= REACHED), float("nan"))


def draw(results: Sequence[Result], untrained: dict[str, Any]) -> Figure:
    """Accuracy over the epochs: beside ViT and DeiT, and without each part."""
    figure, (beside, without) = panels(2)
    labels = dict(xlabel="epoch", ylabel="top-1 (%)")
    draw_curves(beside, [r for r in results if r["series"] in ("ViT", "DeiT", "CeiT")], **labels)
    draw_curves(without, [r for r in results if r["series"].startswith("CeiT")], **labels)
    without.sharey(beside)
    return figure


COMPARISON = Comparison(
    runs,
    {
        "parameters (M)": lambda result: result["parameters"] / 1e6,
        f"epochs to {REACHED} %": epochs_to_reach,
        "top-1": final,
    },
    draw,
)
