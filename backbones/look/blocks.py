"""What each block of a transformer contributes: its feature map, and LayerScale's factors."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor, nn

from backbones.attention_maps import AttentionInput
from backbones.look.colors import pca_colors
from backbones.look.levels import THUMBNAIL, pair, photograph
from backbones.look.record import Look, View
from backbones.pictures.html import BLUE, ORANGE, chart, grid, picture
from backbones.trunk import Block

TEXT = """<h2>Feature maps of the blocks</h2>
<p>The attention maps of all heads times their values, before they are projected: the first three principal components
of each block as red, green and blue.{}</p>"""
MIXED_TEXT = " Below, the same without the mixing of the heads."
SCALE_TEXT = """<h2>LayerScale</h2>
<p>The learnt factors of the residual branches: small ones leave a block close to the identity, as they start.</p>"""


def show(look: Look) -> Iterator[str]:
    """The feature map of each block that attends globally, then the factors of all blocks that have any."""
    if look.views and look.views[0].blocks:
        mixing = any(given.attention.mixes_heads for given in look.views[0].attention)
        yield TEXT.format(MIXED_TEXT if mixing else "")
        for view in look.views:
            yield grid([photograph(view.photo, THUMBNAIL), *feature_figures(view)], "strip")
    if factors := layer_scales(look.subject.backbone):
        yield SCALE_TEXT
        yield grid([scale_chart(factors)], "charts")


def feature_figures(view: View) -> Iterator[str]:
    """The feature map of each block, above the one without mixed heads where they are mixed."""
    for name, given, product in zip(view.blocks, view.attention, view.products, strict=True):
        (above,) = pca_colors([patches(product, given)])
        figure = picture(above, name if not given.attention.mixes_heads else "mixed")
        if given.attention.mixes_heads:
            plain = rearrange(given.read(mixed=False), "b h n d -> b n (h d)")
            (below,) = pca_colors([patches(plain, given)])
            figure = pair(figure, picture(below, "not mixed"), name)
        yield figure


def patches(tokens: Tensor, given: AttentionInput) -> Tensor:
    """The map ``(C, h, w)`` of the patches among the tokens ``(1, N, C)``."""
    height, width = given.grid
    return rearrange(tokens[0, -height * width :], "(h w) c -> c h w", h=height)


def layer_scales(backbone: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """LayerScale's factors ``(C,)`` of attention and of feed-forward, for each block that has them."""
    blocks = [module for module in backbone.modules() if isinstance(module, Block)]
    return [(b.gamma_1.detach(), b.gamma_2.detach()) for b in blocks if b.gamma_1 is not None and b.gamma_2 is not None]


def scale_chart(factors: list[tuple[Tensor, Tensor]]) -> str:
    """Sizes of the factors over depth: median, and the range of the middle 80 % of the channels."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis = figure.add_subplot()
    for branch, color, gammas in zip(
        ("attention", "feed-forward"), (BLUE, ORANGE), zip(*factors, strict=True), strict=True
    ):
        shares = torch.tensor([0.1, 0.5, 0.9])
        low, median, high = torch.stack([g.abs().float().cpu().quantile(shares) for g in gammas]).T
        axis.plot(median, marker=".", color=color, label=branch)
        axis.fill_between(range(len(gammas)), low, high, color=color, alpha=0.2, linewidth=0)
    axis.set(xlabel="block", ylabel="size of the factors", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return chart(figure, "size of LayerScale's factors: median and middle 80 % of the channels")
