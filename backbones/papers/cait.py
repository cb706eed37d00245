"""CaiT (arXiv:2103.17239): LayerScale lets deeper transformers train; class attention instead of a token throughout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from backbones.cait import CaiTTrunk
from backbones.classification import CaiTHead
from backbones.papers._figures import draw_lines, grouped, panels
from backbones.papers._runner import final
from backbones.papers._runs import Comparison, Result, Run, schedule, vit

SCALES = {12: 0.1, 24: 1e-5, 36: 1e-6}  # depth and the paper's start of LayerScale
CLASS_ATTENTION_BLOCKS = 2
EPOCHS = 16
HERE = "backbones.papers.cait"


class PlainCaiTHead(CaiTHead):
    """Class attention without LayerScale."""

    def add_layers(self, backbone: CaiTTrunk) -> None:
        super().add_layers(backbone)
        for name, parameter in self.blocks_token_only.named_parameters():
            if "gamma" in name:
                nn.init.ones_(parameter).requires_grad_(False)


class CaiTWithClassToken(CaiTTrunk):
    """CaiT whose blocks carry a class token from the start."""

    prefix_tokens = ("cls_token",)


def runs() -> list[Run]:
    """With and without LayerScale over depth; a class token throughout instead of the blocks of class attention."""

    def run(series: str, x: int, depth: int, scale: float | None, **changes: str) -> Run:
        arch = dict(embed_dims=48, depth=depth, num_heads=4, layer_scale_init_value=scale)
        options = {f"model.{part}.type": kind for part, kind in changes.items()}
        return Run(series, x, "cait_flowers.py", {**options, **vit(48, 8, **arch), **schedule(EPOCHS, 5)})

    throughout = dict(backbone=f"{HERE}.CaiTWithClassToken", head="ClassTokenHead")
    return [
        *(run("LayerScale", depth, depth, scale) for depth, scale in SCALES.items()),
        *(run("no LayerScale", depth, depth, None, head=f"{HERE}.PlainCaiTHead") for depth in SCALES),
        *(
            run("LayerScale, class token throughout", depth, depth + CLASS_ATTENTION_BLOCKS, scale, **throughout)
            for depth, scale in SCALES.items()
        ),
    ]


def measure(model: Any, images: Tensor, samples: list) -> dict[str, Any]:
    """Norm of the loss's gradient at the tokens that enter each block."""
    tokens: list[Tensor] = []

    def keep(block: nn.Module, args: tuple[Any, ...]) -> None:
        args[0].retain_grad()
        tokens.append(args[0])

    hooks = [block.register_forward_pre_hook(keep) for block in model.backbone.blocks]
    try:
        loss, _ = model.parse_losses(model.loss(images, samples))
        loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    norms = [float(torch.linalg.vector_norm(x.grad)) for x in tokens if x.grad is not None]
    model.zero_grad()
    return dict(gradients=norms)


def growth(result: Result) -> float:
    """Gradient at the first block, in multiples of that at the last, before the training."""
    norms = result["start"]["gradients"]
    return norms[0] / norms[-1]


def draw(results: Sequence[Result], untrained: dict[str, Any]) -> Figure:
    """Gradients over the blocks before the training, their growth over depth, and accuracy over depth."""
    figure, (blocks, over_depth, accuracy) = panels(3)
    deepest = max(SCALES)
    for (series, x), (result, *_) in grouped(results).items():
        if x == deepest:
            blocks.plot([n / result["start"]["gradients"][-1] for n in result["start"]["gradients"]], label=series)
    blocks.set(xlabel=f"block of {deepest}", ylabel="gradient at its tokens, relative to the last block")
    blocks.grid(alpha=0.3)
    blocks.legend(fontsize="small")
    draw_lines(over_depth, results, growth, xlabel="blocks", ylabel="gradient at the first block / at the last")
    draw_lines(accuracy, results, final, xlabel="blocks", ylabel="top-1 (%)")
    return figure


COMPARISON = Comparison(
    runs,
    {
        "parameters (M)": lambda result: result["parameters"] / 1e6,
        "gradient, first block / last": growth,
        "last loss": lambda result: result["loss"],
        "top-1": final,
        "diverged": lambda result: float(result["diverged"] is not None),
    },
    draw,
    measure=measure,
)
