"""Exact attention whose score maps are mixed over the heads, in memory that grows with N instead of N^2.

Fused attention kernels treat every head alone; talking heads and re-attention form linear combinations of the N x N
maps of all heads. Here these maps exist for a few query rows at a time (for a few samples where a whole map is small),
and backward computes them again, so that a step stores q, k, v and the output. The arithmetic is the same; it is faster
because a chunk of the maps stays in the processor's cache.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .exporting import exporting
from .score_map_operators import head_covariance, mixed_attention


def talking_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    pre_weight: Tensor,
    pre_bias: Tensor,
    post_weight: Tensor,
    post_bias: Tensor,
) -> Tensor:
    """Attention that mixes its maps linearly over the heads, before the softmax and after it.

    ``S = scale * q k^T``, ``A = softmax(pre_weight S + pre_bias)``, ``(post_weight A + post_bias) v``, the softmax over
    the keys and the weights over the heads.

    Args:
        q: ``(B, h, N, D)``; its dtype is that of the products. The maps are mixed and normalised in float32 at least.
        k: ``(B, h, N, D)``.
        v: ``(B, h, N, d)``.
        scale: Factor of the scores.
        pre_weight: ``(h, h)``, from the heads of the last dimension to those of the first.
        pre_bias: ``(h,)``. The softmax cancels it; its gradient is zero.
        post_weight: ``(h, h)``.
        post_bias: ``(h,)``.

    Returns:
        ``(B, h, N, d)``, laid out in memory as ``(B, N, h, d)``.

    Source: Shazeer et al., arXiv:2003.02436; in vision: CaiT, Touvron et al., arXiv:2103.17239.
    """
    pre_weight = pre_weight + 0 * pre_bias[:, None]  # zero gradient; without one, DDP would wait
    return _mixed_attention(q, k, v, scale, pre_weight, post_weight, post_bias)


def re_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    matrix_weight: Tensor,
    matrix_bias: Tensor,
    norm: nn.BatchNorm2d,
    map_scale: float,
) -> Tensor:
    """Attention that mixes its softmax maps over the heads and batch-normalises them, each head over all its values.

    ``A = softmax(scale * q k^T)``, ``map_scale * norm(matrix_weight A + matrix_bias) v``. In training mode statistics
    are those of the whole maps, with gradients, and the running ones are updated as ``norm`` itself would.

    Args:
        q: ``(B, h, N, D)``; its dtype is that of the products. Statistics and maps are computed in float32 at least.
        k: ``(B, h, N, D)``.
        v: ``(B, h, N, d)``.
        scale: Factor of the scores.
        matrix_weight: ``(h, h, 1, 1)``, a 1 x 1 convolution over the heads.
        matrix_bias: ``(h,)``. Batch statistics cancel it; its gradient is then zero.
        norm: Batch norm of h channels.
        map_scale: Factor of the normalised maps.

    Returns:
        ``(B, h, N, d)``, laid out in memory as ``(B, N, h, d)``.

    Raises:
        ValueError: for a batch norm in training mode that is synchronised over processes.

    Source: DeepViT, Zhou et al., arXiv:2103.11886, section 4.2, with the batch norm of the official code.
    """
    weight = matrix_weight.flatten(1)
    if norm.training:
        offset, variance = _batch_statistics(q, k, scale, weight, matrix_bias, norm)
    else:
        assert norm.running_mean is not None and norm.running_var is not None
        offset, variance = matrix_bias - norm.running_mean, norm.running_var
    factor = norm.weight * torch.rsqrt(variance + norm.eps)
    shift = norm.bias + factor * offset
    return _mixed_attention(q, k, v, scale, None, map_scale * factor[:, None] * weight, map_scale * shift)


def _mixed_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pre: Tensor | None, post: Tensor, shift: Tensor
) -> Tensor:
    """The operator ``mixed_attention``, or in an export, whose formats lack it, its formula with whole N x N maps."""
    if not exporting():
        return mixed_attention(q, k, v, scale, pre, post, shift)
    scores = (q * scale) @ k.mT  # (B, h, N, N)
    if pre is not None:
        scores = F.conv2d(scores, pre[:, :, None, None])
    return F.conv2d(scores.softmax(-1), post[:, :, None, None], shift) @ v


def _batch_statistics(
    q: Tensor, k: Tensor, scale: float, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor]:
    """Bias minus mean, and variance of the mixed maps, each ``(h,)``; updates the running statistics of ``norm``."""
    if "SyncBatchNorm" in type(norm).__name__:  # PyTorch's or mmcv's
        raise ValueError(
            f"norm is a {type(norm).__name__} in training mode, but re-attention takes the statistics of one process "
            "only; leave sync_bn out, or keep the batch norms in eval mode (norm_eval=True)"
        )
    batch, _, n, _ = q.shape
    covariance = head_covariance(q, k, scale)
    # No matrix products here: autocast would round them.
    variance = (weight[:, :, None] * covariance * weight[:, None, :]).sum((1, 2))
    mean = weight.sum(1) / n  # without the bias; the rows of a softmax map sum to 1, so its mean is 1 / N
    with torch.no_grad():
        _update_running_statistics(norm, mean + bias, variance, batch * n * n)
    return 0 * bias - mean, variance


def _update_running_statistics(norm: Any, mean: Tensor, variance: Tensor, count: int) -> None:
    """Updates the running statistics with mean and (biased) variance of ``count`` values per channel."""
    norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    unbiased = variance * (count / (count - 1))
    for running, batch in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        running.mul_(1 - momentum).add_(batch, alpha=momentum)
