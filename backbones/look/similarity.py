"""DeepViT's analysis: how similar the attention maps of the blocks are to each other, and those of a block's heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backbones.attention_maps import DISTANCES, SIMILAR_BLOCK, compare_maps, similarity_ratios
from backbones.look.record import Look
from backbones.look.subject import spread
from backbones.pictures.html import chart, grid

TOKENS = 256  # whose columns of the maps are compared
TEXT = """<h2>Similarity of the maps</h2>
<p>In deep transformers the upper blocks attend alike (attention collapse). Two maps are compared, head by head, by the
cosine between the weights that all tokens give to one token.</p>"""
MIXED_TEXT = """<p>This model mixes the maps of its heads (re-attention, or talking heads). <em>On</em> are the maps
after the mixing, <em>off</em> those of the plain softmax of the same queries and keys.</p>"""


def show(look: Look) -> Iterator[str]:
    """Similar maps and blocks over depth, and similar heads; nothing for fewer than two blocks."""
    if not look.views or len(look.views[0].blocks) < 2:
        return
    mixing = any(given.attention.mixes_heads for given in look.views[0].attention)
    yield TEXT + (MIXED_TEXT if mixing else "")
    found = {"on": shares(look, True)} | ({"off": shares(look, False)} if mixing else {})
    names = look.views[0].blocks
    ends = f"{names[0]} to {names[-1]}"
    charts = []
    for state, (neighbours, _) in found.items():
        figure, axis = _axes("similar maps, %")
        for distance, ratios in neighbours.items():
            blocks = range(distance, len(names))
            axis.plot(blocks, 100 * ratios, marker=".", label=f"{distance} before")
        axis.legend(fontsize=8, title="compared with the block", title_fontsize=8)
        charts.append(chart(figure, f"{_mixing(state, mixing)}maps similar at {look.similar}, blocks {ends}"))
    figure, axis = _axes("similar blocks so far, %")
    for state, (neighbours, _) in found.items():
        similar = (neighbours[1] > SIMILAR_BLOCK).double()
        so_far = similar.cumsum(0) / torch.arange(1, len(similar) + 1)
        axis.plot(range(1, len(names)), 100 * so_far, marker=".", label=state)
    caption = (
        f"blocks with more than {SIMILAR_BLOCK:.0%} of their maps similar to the block before, of those up to here"
    )
    charts.append(_legend(figure, axis, mixing, caption))
    if look.views[0].attention[0].attention.num_heads > 1:
        figure, axis = _axes("similar heads, %")
        for state, (_, heads) in found.items():
            axis.plot(range(len(names)), 100 * heads, marker=".", label=state)
        caption = f"maps of two heads of a block that are similar at {look.similar_heads}"
        charts.append(_legend(figure, axis, mixing, caption))
    yield grid(charts, "charts")


def shares(look: Look, mixed: bool) -> tuple[Mapping[int, torch.Tensor], torch.Tensor]:
    """Share of similar maps at each distance, and of similar heads, for each block, as a mean over the photographs.

    Args:
        look: The page's.
        mixed: As in ``AttentionInput.maps``.
    """
    neighbours: dict[int, list[torch.Tensor]] = {}
    heads = []
    for view in look.views:
        columns = torch.tensor(spread(view.attention[0].x.shape[1], TOKENS))
        compared = compare_maps(view.attention, DISTANCES, columns, mixed)
        for distance, similarities in compared.neighbours.items():
            neighbours.setdefault(distance, []).append(similarity_ratios(similarities, look.similar))
        heads.append(similarity_ratios(compared.heads, look.similar_heads))
    mean = {distance: torch.stack(found).mean(0).cpu() for distance, found in neighbours.items()}
    return mean, torch.stack(heads).mean(0).cpu()


def _mixing(state: str, mixing: bool) -> str:
    return f"mixing {state}: " if mixing else ""


def _axes(ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis: Any = figure.add_subplot()
    axis.set(xlabel="block", ylabel=ylabel, ylim=(-3, 103))
    axis.grid(alpha=0.3)
    return figure, axis


def _legend(figure: Figure, axis: Axes, mixing: bool, caption: str) -> str:
    if mixing:
        axis.legend(fontsize=8, title="mixing of the heads", title_fontsize=8)
    return chart(figure, caption)
