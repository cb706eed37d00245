"""DeepViT (arXiv:2103.11886): attention maps grow alike with depth; re-attention keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from backbones.attention_maps import SIMILAR, block_similarities, count_similar_blocks, similarity_ratios
from backbones.papers._figures import draw_lines, grouped, panels
from backbones.papers._runner import final
from backbones.papers._runs import Comparison, Options, Result, Run, schedule, vit

DEPTHS = (8, 16, 24, 32)
WIDE_DEPTHS = (8, 16)
EPOCHS = 16


def runs() -> list[Run]:
    """Attention, re-attention and wider attention, over depth."""

    def run(series: str, depth: int, kind: str, width: int = 48) -> Run:
        arch = dict(embed_dims=width, depth=depth, num_heads=4, mlp_ratio=3)
        options: Options = {"model.backbone.type": kind, **vit(48, 8, **arch), **schedule(EPOCHS, 5)}
        return Run(series, depth, "vit_flowers.py", options)

    return [
        *(run("attention", depth, "ViTTrunk") for depth in DEPTHS),
        *(run("re-attention", depth, "DeepViTTrunk") for depth in DEPTHS),
        *(run("attention, twice as wide", depth, "ViTTrunk", width=96) for depth in WIDE_DEPTHS),
    ]


def measure(model: Any, images: Tensor, samples: list) -> dict[str, Any]:
    """Share of similar attention vectors of each block but the first, and the number of similar blocks."""
    similarities = block_similarities(model.backbone, images)
    return dict(
        ratios=similarity_ratios(similarities).tolist(),
        blocks=count_similar_blocks(similarities),
        mean=similarities.mean().item(),
    )


def share_of_blocks(result: Result) -> float:
    """Share of the blocks that resemble the block before."""
    return result["end"]["blocks"] / len(result["end"]["ratios"])


def draw(results: Sequence[Result], untrained: dict[str, Any]) -> Figure:
    """Similarity over the blocks of the deepest networks, similar blocks over depth, and accuracy over depth."""
    figure, (blocks, share, accuracy) = panels(3)
    for (series, x), group in grouped(results).items():
        if x == max(DEPTHS):
            ratios = [sum(r) / len(group) for r in zip(*(result["end"]["ratios"] for result in group), strict=True)]
            blocks.plot(range(2, x + 1), ratios, marker="o", markersize=3, label=f"{series}, {x} blocks")
    blocks.set(xlabel="block", ylabel=f"share of maps over {SIMILAR} similar to the block before")
    blocks.set_ylim(-0.02, 1.02)
    blocks.grid(alpha=0.3)
    blocks.legend(fontsize="small")
    draw_lines(share, results, share_of_blocks, xlabel="blocks", ylabel="share of similar blocks")
    draw_lines(accuracy, results, final, xlabel="blocks", ylabel="top-1 (%)")
    return figure


COMPARISON = Comparison(
    runs,
    {
        "mean similarity": lambda result: result["end"]["mean"],
        "before training": lambda result: result["start"]["mean"],
        "similar blocks": lambda result: result["end"]["blocks"],
        "top-1": final,
    },
    draw,
    measure=measure,
)
