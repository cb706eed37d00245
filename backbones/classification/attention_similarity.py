"""A loss that lowers the similarity of the attention maps of neighbouring blocks (DeepViT, arXiv:2103.11886)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..attention_maps import AttentionInput, attention_similarity, recorded_blocks
from .classifier import DenseClassifier


def similarity_loss(inputs: Sequence[AttentionInput]) -> Tensor:
    """Mean similarity between the maps of neighbouring blocks, with gradients.

    Backward computes the maps again, two blocks at a time, so that a step stores none.

    Args:
        inputs: From ``recorded_blocks``.

    The published recipe for 32 blocks regularises the cosine similarity between the maps of different blocks; which
    blocks the official code compares, and their weight, could not be verified. The paper
    measures neighbours.
    """

    def similarity(a: AttentionInput, b: AttentionInput) -> Tensor:
        return attention_similarity(a.maps(), b.maps()).mean()

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
        with recorded_blocks(self.backbone.blocks) as attention:
            losses = super().loss(inputs, data_samples)
        losses["loss_similarity"] = self.similarity_weight * similarity_loss(attention)
        return losses
