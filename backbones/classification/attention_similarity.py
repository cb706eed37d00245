"""Similarity of the attention maps of neighbouring blocks, and a loss that lowers it.

In deep transformers the maps of the upper blocks become the same ("attention collapse"): Zhou et al., DeepViT,
arXiv:2103.11886, section 3. Works with any trunk of global blocks. Attention never stores its maps, so they are
computed again from the recorded inputs of the blocks, two blocks at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..layers import Rotation
from ..layers.recompute import without_statistics
from ..trunk import Block, Trunk
from .classifier import DenseClassifier

# a block, its tokens (B, N, C), their grid and rotation
BlockInput = tuple[Block, Tensor, tuple[int, int], Rotation | None]


@contextmanager
def recorded_blocks(net: Trunk) -> Iterator[list[BlockInput]]:
    """Records the inputs of each block in the forwards inside this context.

    Raises:
        ValueError: if blocks attend in windows; their maps cannot be compared with those of other blocks.
    """
    if windowed := [i for i, block in enumerate(net.blocks) if block.window_size is not None]:
        raise ValueError(
            f"blocks {windowed} attend in windows; maps are compared between global blocks: no window_size"
        )
    inputs: list[BlockInput] = []

    def record(block: Any, args: tuple[Any, ...]) -> None:
        tokens, grid, _, rotation = args
        inputs.append((block, tokens, grid, rotation))

    hooks = [block.register_forward_pre_hook(record) for block in net.blocks]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def attention_maps(block: Block, tokens: Tensor, grid: tuple[int, int], rotation: Rotation | None = None) -> Tensor:
    """Attention weights of a block, ``(B, h, N, N)``, queries first, after re-attention."""
    attention: Any = block.attn
    with without_statistics(block):  # batch norms in the attention count the batch in forward
        return attention.maps(block.norm1(tokens), grid, rotation)


def attention_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Cosine similarity of the columns of two maps: of the weights that all tokens give to one.

    Args:
        maps: ``(B, h, N, N)``, queries first.
        others: Likewise, of another block.

    Returns:
        ``(B, h, N)``, in float32 or wider.

    Source: arXiv:2103.11886, equation 2.
    """
    wide = torch.promote_types(maps.dtype, torch.float32)
    return F.cosine_similarity(maps.to(wide), others.to(wide), dim=-2)


@torch.no_grad()
def block_similarities(net: Trunk, images: Tensor) -> Tensor:
    """Similarity of each block's maps to those of the block before, ``(depth - 1, B, h, N)``.

    Args:
        net: In eval mode.
        images: ``(B, 3, H, W)``.
    """
    with recorded_blocks(net) as inputs:
        net.forward_tokens(images)
    maps = (attention_maps(*given) for given in inputs)
    return torch.stack([attention_similarity(a, b) for a, b in itertools.pairwise(maps)])


def similarity_ratios(similarities: Tensor, threshold: float = 0.9) -> Tensor:
    """Share of the similarities above a threshold, for each block but the first, ``(depth - 1,)``.

    The default threshold is ours; compare models at one threshold.
    """
    return (similarities > threshold).double().mean((1, 2, 3))


def count_similar_blocks(similarities: Tensor, threshold: float = 0.9) -> int:
    """Number of blocks with more than 90 % of their similarities above a threshold.

    Published, with the authors' own threshold: 5, 11 and 15 of a ViT's 16, 24 and 32 blocks; none with re-attention.
    """
    return int((similarity_ratios(similarities, threshold) > 0.9).sum())


def similarity_loss(inputs: list[BlockInput]) -> Tensor:
    """Mean similarity between the maps of neighbouring blocks, with gradients.

    Backward computes the maps again, two blocks at a time, so that a step stores none.

    Args:
        inputs: From ``recorded_blocks``.

    The published recipe for 32 blocks regularises the cosine similarity between the maps of different blocks; which
    blocks the official code compares, and their weight, could not be verified. The paper
    measures neighbours.
    """

    def similarity(a: BlockInput, b: BlockInput) -> Tensor:
        return attention_similarity(attention_maps(*a), attention_maps(*b)).mean()

    pairs: list[Any] = [
        checkpoint(similarity, a, b, use_reentrant=False, preserve_rng_state=False)
        for a, b in itertools.pairwise(inputs)
    ]
    return torch.stack(pairs).mean()


@MODELS.register_module()
class DiverseClassifier(DenseClassifier):
    """A classifier whose loss has ``similarity_loss`` added.

    Args:
        similarity_weight: Factor of that loss.
        kwargs: As for ``DenseClassifier``.
    """

    def __init__(self, similarity_weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.similarity_weight = similarity_weight

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        with recorded_blocks(self.backbone) as blocks:
            losses = super().loss(inputs, data_samples)
        losses["loss_similarity"] = self.similarity_weight * similarity_loss(blocks)
        return losses
