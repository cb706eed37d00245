"""The attention maps of a transformer's blocks, and how similar they are to each other.

In deep transformers the maps of the upper blocks become the same ("attention collapse"): Zhou et al., DeepViT,
arXiv:2103.11886, section 3. Works with any network of global blocks. Attention never stores its maps, so they are
computed again from the recorded inputs, a few blocks at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention
from .layers.recompute import without_statistics
from .trunk import Block, Trunk

SIMILAR = 0.8  # cosine similarity of the maps of two blocks above which the paper calls them similar
SIMILAR_HEADS = 0.5  # likewise, of two heads of a block
SIMILAR_BLOCK = 0.9  # share of similar maps above which a block is similar
DISTANCES = (1, 2, 3)  # between the blocks that the paper compares


class AttentionInput(NamedTuple):
    """The arguments of a block's attention in a forward.

    Attributes:
        attention: The module.
        x: Tokens, ``(B, N, C)``.
        grid: (rows, columns) of the patches among them, which come last.
        rest: Further arguments.
    """

    attention: Attention
    x: Tensor
    grid: tuple[int, int]
    rest: tuple[Any, ...] = ()

    def read(self, values: Tensor | None = None, mixed: bool = True) -> Tensor:
        """``Attention.read`` of these tokens; batch norms do not count them again."""
        with without_statistics(self.attention):
            return self.attention.read(self.x, self.grid, *self.rest, values=values, mixed=mixed)

    def maps(self, columns: Tensor | None = None, mixed: bool = True) -> Tensor:
        """Attention weights, ``(B, h, N, M)``, queries first, after re-attention.

        Args:
            columns: Indices of M tokens that the weights are given to; None takes all N.
            mixed: As in ``Attention.read``.
        """
        unit = torch.eye(self.x.shape[1], dtype=self.x.dtype, device=self.x.device)
        return self.read(unit if columns is None else unit[:, columns], mixed)


class Similarities(NamedTuple):
    """Cosine similarities of the maps of one forward.

    Attributes:
        neighbours: Distance d -> ``(depth - d, B, h, M)``: of each block to the one d before it.
        heads: ``(depth, B, h (h - 1) / 2, M)``: of each pair of heads of a block.
    """

    neighbours: dict[int, Tensor]
    heads: Tensor


def global_blocks(net: nn.Module) -> dict[str, Block]:
    """The blocks that attend among all tokens, by name and in order of computation."""
    blocks = {name: module for name, module in net.named_modules() if isinstance(module, Block)}
    return {name: block for name, block in blocks.items() if block.window_size is None}


@contextmanager
def recorded_blocks(blocks: Iterable[Any]) -> Iterator[list[AttentionInput]]:
    """Records the inputs of each block's attention in the forwards inside this context.

    Raises:
        ValueError: if blocks attend in windows; their maps cannot be compared with those of other blocks.
    """
    blocks = list(blocks)
    if windowed := [i for i, block in enumerate(blocks) if block.window_size is not None]:
        raise ValueError(
            f"blocks {windowed} attend in windows; maps are compared between global blocks: no window_size"
        )
    inputs: list[AttentionInput] = []

    def record(attention: Any, args: tuple[Any, ...]) -> None:
        x, grid, *rest = args
        inputs.append(AttentionInput(attention, x, grid, tuple(rest)))

    hooks = [block.attn.register_forward_pre_hook(record) for block in blocks]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def attention_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity of the columns of two maps: of the weights that all tokens give to one.

    Args:
        maps: ``(B, h, N, M)``, queries first.
        others: Likewise, of another block.

    Returns:
        ``(B, h, M)``, in float32 or wider.

    Source: arXiv:2103.11886, equation 2.
    """
    wide = torch.promote_types(maps.dtype, torch.float32)
    return F.cosine_similarity(maps.to(wide), others.to(wide), dim=-2)


def head_similarity(maps: Tensor) -> Tensor:
    """The same similarity between the heads of a block.

    Args:
        maps: ``(B, h, N, M)``, queries first.

    Returns:
        ``(B, h (h - 1) / 2, M)``, in float32 or wider.
    """
    wide = torch.promote_types(maps.dtype, torch.float32)
    unit = F.normalize(maps.to(wide), dim=-2)
    products = torch.einsum("bhnm,bgnm->bhgm", unit, unit)
    one, other = torch.triu_indices(maps.shape[1], maps.shape[1], 1)
    return products[:, one, other]


@torch.no_grad()
def compare_maps(
    inputs: Sequence[AttentionInput],
    distances: Sequence[int] = DISTANCES,
    columns: Tensor | None = None,
    mixed: bool = True,
) -> Similarities:
    """Compare the maps of the blocks of one forward; as many exist at a time as the largest distance, and one more.

    Args:
        inputs: From ``recorded_blocks``.
        distances: Between the blocks to compare; those that the depth does not reach are left out.
        columns: As in ``AttentionInput.maps``; a sample of the tokens is as good and faster.
        mixed: As in ``Attention.read``.
    """
    neighbours: dict[int, list[Tensor]] = {distance: [] for distance in distances}
    heads, recent = [], []  # the latest maps last
    for each in inputs:
        maps = each.maps(columns, mixed)
        for distance, found in neighbours.items():
            if len(recent) >= distance:
                found.append(attention_similarity(recent[-distance], maps))
        heads.append(head_similarity(maps))
        recent = [*recent, maps][-max(distances) :]
    return Similarities({d: torch.stack(found) for d, found in neighbours.items() if found}, torch.stack(heads))


@torch.no_grad()
def block_similarities(net: Trunk, images: Tensor, distance: int = 1) -> Tensor:
    """Similarity of each block's maps to those of an earlier block, ``(depth - distance, B, h, N)``.

    Args:
        net: In eval mode, deeper than ``distance``.
        images: ``(B, 3, H, W)``.
        distance: Between the blocks.
    """
    with recorded_blocks(net.blocks) as inputs:
        net.forward_tokens(images)
    return compare_maps(inputs, (distance,)).neighbours[distance]


def similarity_ratios(similarities: Tensor, threshold: float = SIMILAR) -> Tensor:
    """Share of the similarities ``(blocks, ...)`` above a threshold, for each block."""
    return (similarities > threshold).double().flatten(1).mean(1)


def similar_blocks(similarities: Tensor, threshold: float = SIMILAR) -> Tensor:
    """Which blocks are similar: more than 90 % of their similarities ``(blocks, ...)`` are above a threshold."""
    return similarity_ratios(similarities, threshold) > SIMILAR_BLOCK


def count_similar_blocks(similarities: Tensor, threshold: float = SIMILAR) -> int:
    """Number of similar blocks.

    Published: 5, 11 and 15 of a ViT's 16, 24 and 32 blocks; none with re-attention.
    """
    return int(similar_blocks(similarities, threshold).sum())
