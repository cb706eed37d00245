"""Exact attention whose score maps are mixed over the heads, in memory that grows with N instead of N^2.

Fused attention kernels treat every head alone; talking heads and re-attention form linear combinations of all heads'
N x N maps. Here these maps exist for a few query rows at a time (for a few samples where a whole map is small), and
backward computes them again, so that a step keeps q, k, v and the output. The work is the textbook's; it is faster all
the same, since a chunk of the maps stays in the processor's cache.

The loops over chunks are operators of their own (``torch.library``): ``torch.compile`` takes each as one node instead
of unrolling it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Size of one map of a chunk (all heads); up to four exist at a time. On CPUs they should fit the cache; larger chunks
# mean fewer and larger kernels elsewhere.
CPU_CHUNK_BYTES = 4 * 2**20
CHUNK_BYTES = 32 * 2**20


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
        q: ``(B, h, N, D)``; its dtype is that of the products.
        k: ``(B, h, N, D)``.
        v: ``(B, h, N, d)``.
        scale: Factor of the scores.
        pre_weight: ``(h, h)``, from the heads of the last dimension to those of the first.
        pre_bias: ``(h,)``. It changes nothing, since it is the same for all keys, and its gradient is zero.
        post_weight: ``(h, h)``.
        post_bias: ``(h,)``.

    Returns:
        ``(B, h, N, d)``, laid out in memory as ``(B, N, h, d)``.

    Source: Shazeer et al., arXiv:2003.02436; in vision: CaiT, Touvron et al., arXiv:2103.17239.
    """
    pre_weight = pre_weight + 0 * pre_bias[:, None]  # a gradient of zero; with none, data-parallel training would wait
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
        q: ``(B, h, N, D)``; its dtype is that of the products. Statistics are computed in float32 at least.
        k: ``(B, h, N, D)``.
        v: ``(B, h, N, d)``.
        scale: Factor of the scores.
        matrix_weight: ``(h, h, 1, 1)``, a 1 x 1 convolution over the heads.
        matrix_bias: ``(h,)``. Batch statistics take it out again; its gradient is then zero.
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
    covariance = _head_covariance(q, k, scale)
    # No matrix products here: autocast would round them.
    variance = (weight[:, :, None] * covariance * weight[:, None, :]).sum((1, 2))
    mean = weight.sum(1) / n  # without the bias; the rows of a softmax map sum to 1, so its mean is 1 / N
    with torch.no_grad():
        _update_running_statistics(norm, mean + bias, variance, batch * n * n)
    return 0 * bias - mean, variance


def _update_running_statistics(norm: Any, mean: Tensor, variance: Tensor, count: int) -> None:
    """What ``norm`` does in training mode, given mean and (biased) variance of ``count`` values per channel."""
    norm.num_batches_tracked.add_(1)
    momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    unbiased = variance * (count / (count - 1))
    for running, batch in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        running.mul_(1 - momentum).add_(batch, alpha=momentum)


# ---- operators


def _operator(schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function as an operator, inside which autocast is off: it chooses its dtypes itself."""

    def register(function: Callable[..., Any]) -> Any:
        def run(q: Tensor, *args: Any) -> Any:
            with torch.autocast(q.device.type, enabled=False):
                return function(q, *args)

        name = f"backbones::{function.__name__.removeprefix('_')}"
        return torch.library.custom_op(name, run, mutates_args=(), schema=schema)

    return register


@_operator("(Tensor q, Tensor k, Tensor v, float scale, Tensor? pre, Tensor post, Tensor shift) -> Tensor")
def _mixed_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pre: Tensor | None, post: Tensor, shift: Tensor
) -> Tensor:
    """``(post softmax(pre (scale q k^T)) + shift) v``; None for ``pre`` mixes nothing before the softmax."""
    out = _empty_output(v)
    for at, _, _, (_, maps, mixed) in _softmax_maps(q, k, scale, pre, 3, q.dtype):
        _mix(post, maps, mixed, shift)
        out[at] = torch.bmm(mixed, v[at[0]].flatten(0, 1)).unflatten(0, (-1, v.shape[1]))
    return out


@_operator(
    "(Tensor q, Tensor k, Tensor v, float scale, Tensor? pre, Tensor post, Tensor shift, Tensor grad) -> Tensor[]"
)
def _mixed_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pre: Tensor | None, post: Tensor, shift: Tensor, grad: Tensor
) -> list[Tensor]:
    """Gradients of q, k, v, post, shift and, if there is one, pre."""
    dq, dk, dv = _empty_contiguous(q), _zeros_transposed(k), _zeros_transposed(v)
    dpost = torch.zeros_like(post)
    dpre = None if pre is None else torch.zeros_like(pre)
    dshift = (grad.sum(2, dtype=shift.dtype) * v.sum(2, dtype=shift.dtype)).sum((0, 2))
    for at, queries, keys, (scores, maps, x, y) in _softmax_maps(q, k, scale, pre, 4, q.dtype):
        grads = grad[at].flatten(0, 1)  # (samples * h, rows, d)
        _add_product(dv[at[0]], grads.mT, _mix(post, maps, x, shift))
        dmixed = torch.bmm(grads, v[at[0]].flatten(0, 1).mT, out=x)
        dpost += _head_products(dmixed, maps, len(post))
        dscores = _softmax_backward(_mix(post.mT, dmixed, y), maps, x)
        if pre is not None and dpre is not None:
            dpre += _head_products(dscores, scores, len(post))
            dscores = _mix(pre.mT, dscores, y)
        dq[at] = (scale * torch.bmm(dscores, keys)).unflatten(0, (-1, q.shape[1]))
        _add_product(dk[at[0]], queries.mT, dscores, scale)
    grads = [dq, dk.mT.to(k.dtype), dv.mT.to(v.dtype), dpost, dshift]
    return grads if dpre is None else [*grads, dpre]


@_operator("(Tensor q, Tensor k, float scale) -> Tensor")
def _head_covariance(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """``(h, h)``: covariances between the softmax maps of the heads, over all samples, rows and keys."""
    (batch, h, n, _), dtype = q.shape, _wide(q.dtype)
    total = q.new_zeros(h, h, dtype=dtype)
    for _, _, _, (_, maps) in _softmax_maps(q, k, scale, None, 2, dtype):
        maps -= 1 / n
        total += _head_products(maps, maps, h)
    return total / (batch * n * n)


@_operator("(Tensor q, Tensor k, float scale, Tensor grad) -> Tensor[]")
def _head_covariance_backward(q: Tensor, k: Tensor, scale: float, grad: Tensor) -> list[Tensor]:
    """Gradients of q and k."""
    batch, h, n, _ = q.shape
    dq, dk = _empty_contiguous(q), _zeros_transposed(k)
    weight = (grad + grad.mT) / (batch * n * n)
    for at, queries, keys, (x, maps, y) in _softmax_maps(q, k, scale, None, 3, _wide(q.dtype)):
        # The mean that forward subtracts is constant along a row, and falls out of the softmax's gradient.
        dscores = _softmax_backward(_mix(weight, maps, y), maps, x)
        dq[at] = (scale * torch.bmm(dscores, keys)).unflatten(0, (-1, h))
        _add_product(dk[at[0]], queries.mT, dscores, scale)
    return [dq, dk.mT.to(k.dtype)]


@_mixed_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return _empty_output(v)


@_mixed_attention_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pre: Tensor | None, post: Tensor, shift: Tensor, grad: Tensor
) -> list[Tensor]:
    small = [torch.empty_like(weight) for weight in (post, shift, pre) if weight is not None]
    return [_empty_contiguous(q), _zeros_transposed(k).mT.to(k.dtype), _zeros_transposed(v).mT.to(v.dtype), *small]


@_head_covariance.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape[1], q.shape[1], dtype=_wide(q.dtype))


@_head_covariance_backward.register_fake
def _(q: Tensor, k: Tensor, *_: Any) -> list[Tensor]:
    return [_empty_contiguous(q), _zeros_transposed(k).mT.to(k.dtype)]


def _keep_for_mixed_attention(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, ctx.scale, *weights = inputs
    ctx.save_for_backward(q, k, v, *weights)


def _mixed_attention_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, *weights = ctx.saved_tensors
    dq, dk, dv, dpost, dshift, *dpre = _mixed_attention_backward(q, k, v, ctx.scale, *weights, grad)
    return dq, dk, dv, None, dpre[0] if dpre else None, dpost, dshift


def _keep_for_head_covariance(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, ctx.scale = inputs
    ctx.save_for_backward(q, k)


def _head_covariance_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_head_covariance_backward(*ctx.saved_tensors, ctx.scale, grad), None


_mixed_attention.register_autograd(_mixed_attention_gradients, setup_context=_keep_for_mixed_attention)
_head_covariance.register_autograd(_head_covariance_gradients, setup_context=_keep_for_head_covariance)


# ---- chunks


def _softmax_maps(
    q: Tensor, k: Tensor, scale: float, pre: Tensor | None, count: int, dtype: torch.dtype
) -> Iterator[tuple[tuple[slice, slice, slice], Tensor, Tensor, tuple[Tensor, ...]]]:
    """Computes softmax maps, a chunk at a time: all heads, and either some rows of one sample or some whole samples.

    Yields:
        The chunk's place in ``(B, h, N)``; its queries ``(samples * h, rows, D)``; its keys ``(samples * h, N, D)``;
        and ``count`` maps ``(samples * h, rows, N)``: scores (before ``pre``), softmax maps, and memory to work in.
        All maps are free to be overwritten, and are by the next chunk.
    """
    batch, h, n, _ = q.shape
    values = (CPU_CHUNK_BYTES if q.is_cpu else CHUNK_BYTES) // dtype.itemsize
    rows = min(n, max(1, values // (h * n)))
    samples = min(batch, max(1, values // (h * n * n)))
    # One piece of memory for all chunks: getting fresh pages from the system takes longer than what is computed there.
    memory = q.new_empty(count, samples * h * rows * n, dtype=dtype)
    for b in range(0, batch, samples):
        keys = k[b : b + samples].flatten(0, 1).to(dtype)
        for r in range(0, n, rows):
            at = (slice(b, b + samples), slice(None), slice(r, r + rows))
            queries = q[at].flatten(0, 1).to(dtype)
            shape = (*queries.shape[:2], n)
            maps = tuple(m[: math.prod(shape)].view(shape) for m in memory)
            scores = maps[0].baddbmm_(queries, keys.mT, beta=0, alpha=scale)
            torch.softmax(scores if pre is None else _mix(pre, scores, maps[2]), -1, out=maps[1])
            yield at, queries, keys, maps


def _mix(weight: Tensor, maps: Tensor, out: Tensor, shift: Tensor | None = None) -> Tensor:
    """Writes ``weight maps + shift``, linear over the heads, to ``out``; both ``(samples * h, rows, N)``."""
    h = weight.shape[0]
    weight = weight.to(maps.dtype).expand(maps.shape[0] // h, h, h)
    by_head, target = (m.view(weight.shape[0], h, -1) for m in (maps, out))
    if shift is None:
        torch.bmm(weight, by_head, out=target)
    else:
        torch.baddbmm(shift.to(maps.dtype)[:, None], weight, by_head, out=target)
    return out


def _head_products(a: Tensor, b: Tensor, h: int) -> Tensor:
    """``(h, h)``: for each pair of heads, the sum over samples, rows and keys of a's map times b's."""
    a, b = (m.view(m.shape[0] // h, h, -1) for m in (a, b))
    return torch.bmm(a, b.mT).sum(0)


def _softmax_backward(grad: Tensor, maps: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten._softmax_backward_data(grad, maps, -1, maps.dtype, grad_input=out)


def _add_product(total: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    """Adds ``scale * a b``, ``(samples * h, d, N)``, to ``total``, ``(samples, h, d, N)``."""
    total = total.flatten(0, 1)
    if total.dtype == a.dtype:
        total.baddbmm_(a, b, alpha=scale)
    else:
        total.add_(torch.bmm(a, b), alpha=scale)


def _empty_output(v: Tensor) -> Tensor:
    """``(B, h, N, d)``, laid out so that the heads' outputs of a token are neighbours."""
    return _empty_contiguous(v.transpose(1, 2)).transpose(1, 2)


def _empty_contiguous(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _zeros_transposed(x: Tensor) -> Tensor:
    """``(B, h, d, N)`` to sum products over chunks in, which run faster in this layout than in that of x."""
    return x.new_zeros(*x.shape[:2], x.shape[3], x.shape[2], dtype=_wide(x.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
