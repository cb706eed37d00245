"""Similarity of the representations of the same images in two places."""

from __future__ import annotations

from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment, of the unbiased estimates.

    1 for representations that are equal up to rotation and scale; about 0 for unrelated ones, whatever their widths.

    Args:
        x: ``(N, C)``, N images, at least 4.
        y: ``(N, D)``.

    Source: Kornblith et al., arXiv:1905.00414; unbiased: Nguyen et al., arXiv:2010.15327, equation 3.
    """
    k, l = (_gram(z) for z in (x, y))
    return float(_hsic(k, l) / (_hsic(k, k) * _hsic(l, l)).sqrt())


def _gram(x: Tensor) -> Tensor:
    x = x.double()
    return (x @ x.T).fill_diagonal_(0)


def _hsic(k: Tensor, l: Tensor) -> Tensor:
    n = len(k)
    sums = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(0))
    return ((k * l).sum() + sums) / (n * (n - 3))
