"""Similarity of the representations of the same images in two places: linear centred kernel alignment (CKA)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 4  # images of a batch, for the estimate to be defined


def gram(x: Tensor) -> Tensor:
    """Products of the representations ``(N, ...)`` of N images, centred, as float64 ``(N, N)`` without its diagonal."""
    x = x.flatten(1).double()
    x = x - x.mean(0)
    return (x @ x.T).fill_diagonal_(0).cpu()


def hsic(k: Tensor, l: Tensor) -> Tensor:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion, from the ``gram`` of at least 4 images.

    Source: Nguyen et al., arXiv:2010.15327, equation 3.
    """
    n = len(k)
    means = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ l.sum(0)) / (n - 2)
    return ((k * l).sum() + means) / (n * (n - 3))


def linear_cka(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Linear CKA of two representations of the same images.

    1 for representations that are equal up to rotation, shift and scale; about 0 for unrelated ones, whatever their
    widths. NaN where one is the same for all images.

    Args:
        one: ``gram`` of the first representation, for each batch of images.
        other: Likewise of the second, for the same batches; the estimates of the batches are averaged.

    Source: Kornblith et al., arXiv:1905.00414; over batches: Nguyen et al., arXiv:2010.15327, section 3.
    """
    pairs = list(zip(one, other, strict=True))
    across, first, second = (
        torch.stack([hsic(*(pair[i] for i in which)) for pair in pairs]).mean() for which in ((0, 1), (0, 0), (1, 1))
    )
    return float(across / (first * second).sqrt())
