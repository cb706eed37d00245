"""The operators behind ``backbones.layers.score_maps``: chunks of score maps, forward and backward.

The loops over chunks are operators of ``torch.library``, so that ``torch.compile`` takes each as one node instead of
unrolling it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Size of one map of a chunk (all heads); up to four exist at a time. On CPUs they should fit the cache; larger chunks
# mean fewer and larger kernels elsewhere.
CPU_CHUNK_BYTES = 4 * 2**20
CHUNK_BYTES = 32 * 2**20


def _operator(schema: str) -> Callable[[Callable[..., Any]], Any]:
    """Registers a function as an operator without autocast: it chooses its dtypes itself."""

    def register(function: Callable[..., Any]) -> Any:
        def run(q: Tensor, *args: Any) -> Any:
            with torch.autocast(q.device.type, enabled=False):
                return function(q, *args)

        name = f"backbones::{function.__name__}"
        return torch.library.custom_op(name, run, mutates_args=(), schema=schema)

    return register


@_operator("(Tensor q, Tensor k, Tensor v, float scale, Tensor? pre, Tensor post, Tensor shift) -> Tensor")
def mixed_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pre: Tensor | None, post: Tensor, shift: Tensor
) -> Tensor:
    """``(post softmax(pre (scale q k^T)) + shift) v``; None for ``pre`` mixes nothing before the softmax."""
    out = _empty_output(v)
    for chunk in _chunks(q, k, scale, pre, 1):
        mixed = _mix(post, chunk.maps, chunk.scratch[0], shift)
        values = v[chunk.at[0]].flatten(0, 1)
        out[chunk.at] = torch.bmm(mixed.to(v.dtype), values).unflatten(0, (-1, v.shape[1]))
    return out


@_operator(
    "(Tensor q, Tensor k, Tensor v, float scale, Tensor? pre, Tensor post, Tensor shift, Tensor grad) -> Tensor[]"
)
def mixed_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pre: Tensor | None, post: Tensor, shift: Tensor, grad: Tensor
) -> list[Tensor]:
    """Gradients of q, k, v, post, shift and, if there is one, pre."""
    dq, dk, dv = _empty_contiguous(q), _zeros_transposed(k), _zeros_transposed(v)
    dpost = torch.zeros_like(post)
    dpre = None if pre is None else torch.zeros_like(pre)
    dshift = (grad.sum(2, dtype=shift.dtype) * v.sum(2, dtype=shift.dtype)).sum((0, 2))
    for chunk in _chunks(q, k, scale, pre, 2):
        one, two = chunk.scratch  # each derivative overwrites the last but one
        samples, h = chunk.at[0], q.shape[1]
        dout = grad[chunk.at].flatten(0, 1)  # (samples * h, rows, d)
        mixed = _mix(post, chunk.maps, one, shift)
        _add_product(dv[samples], dout.mT, mixed)
        dmixed = _product(dout, v[samples].flatten(0, 1).mT, out=one)
        dpost += _head_products(dmixed, chunk.maps, h)
        dmaps = _mix(post.mT, dmixed, two)
        dlogits = _softmax_backward(dmaps, chunk.maps, one)
        dscores = dlogits
        if pre is not None and dpre is not None:
            dpre += _head_products(dlogits, chunk.scores, h)
            dscores = _mix(pre.mT, dlogits, two)
        dq[chunk.at] = (scale * torch.bmm(dscores.to(k.dtype), chunk.keys)).unflatten(0, (-1, h))
        _add_product(dk[samples], chunk.queries.mT, dscores, scale)
    grads = [dq, dk.mT.to(k.dtype), dv.mT.to(v.dtype), dpost, dshift]
    return grads if dpre is None else [*grads, dpre]


@_operator("(Tensor q, Tensor k, float scale) -> Tensor")
def head_covariance(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """``(h, h)``: covariances between the softmax maps of the heads, over all samples, rows and keys."""
    (batch, h, n, _), dtype = q.shape, _wide(q.dtype)
    total = q.new_zeros(h, h, dtype=dtype)
    for chunk in _chunks(q.to(dtype), k.to(dtype), scale, None, 0):
        centred = chunk.maps.sub_(1 / n)
        total += _head_products(centred, centred, h)
    return total / (batch * n * n)


@_operator("(Tensor q, Tensor k, float scale, Tensor grad) -> Tensor[]")
def head_covariance_backward(q: Tensor, k: Tensor, scale: float, grad: Tensor) -> list[Tensor]:
    """Gradients of q and k."""
    (batch, h, n, _), dtype = q.shape, _wide(q.dtype)
    dq, dk = _empty_contiguous(q), _zeros_transposed(k)
    weight = (grad + grad.mT) / (batch * n * n)
    for chunk in _chunks(q.to(dtype), k.to(dtype), scale, None, 1):
        # The mean that forward subtracts is constant along a row, and falls out of the softmax's gradient.
        dmaps = _mix(weight, chunk.maps, chunk.scratch[0])
        dscores = _softmax_backward(dmaps, chunk.maps, chunk.scores)
        dq[chunk.at] = (scale * torch.bmm(dscores, chunk.keys)).unflatten(0, (-1, h))
        _add_product(dk[chunk.at[0]], chunk.queries.mT, dscores, scale)
    return [dq, dk.mT.to(k.dtype)]


@mixed_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
    return _empty_output(v)


@mixed_attention_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pre: Tensor | None, post: Tensor, shift: Tensor, grad: Tensor
) -> list[Tensor]:
    small = [torch.empty_like(weight) for weight in (post, shift, pre) if weight is not None]
    return [_empty_contiguous(q), _zeros_transposed(k).mT.to(k.dtype), _zeros_transposed(v).mT.to(v.dtype), *small]


@head_covariance.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape[1], q.shape[1], dtype=_wide(q.dtype))


@head_covariance_backward.register_fake
def _(q: Tensor, k: Tensor, *_: Any) -> list[Tensor]:
    return [_empty_contiguous(q), _zeros_transposed(k).mT.to(k.dtype)]


def _keep_for_mixed_attention(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, ctx.scale, *weights = inputs
    ctx.save_for_backward(q, k, v, *weights)


def _mixed_attention_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, *weights = ctx.saved_tensors
    dq, dk, dv, dpost, dshift, *dpre = mixed_attention_backward(q, k, v, ctx.scale, *weights, grad)
    return dq, dk, dv, None, dpre[0] if dpre else None, dpost, dshift


def _keep_for_head_covariance(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, ctx.scale = inputs
    ctx.save_for_backward(q, k)


def _head_covariance_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *head_covariance_backward(*ctx.saved_tensors, ctx.scale, grad), None


mixed_attention.register_autograd(_mixed_attention_gradients, setup_context=_keep_for_mixed_attention)
head_covariance.register_autograd(_head_covariance_gradients, setup_context=_keep_for_head_covariance)


class _Chunk(NamedTuple):
    """All heads of some rows of one sample, or of some whole samples. The maps may be overwritten.

    Attributes:
        at: Place in ``(B, h, N)``.
        queries: ``(samples * h, rows, D)``, with the dtype of q, as the keys; the maps have a wide one.
        keys: ``(samples * h, N, D)``.
        scores: ``(samples * h, rows, N)``, before the heads are mixed.
        maps: Softmax maps, likewise.
        scratch: Maps to work in, likewise.
    """

    at: tuple[slice, slice, slice]
    queries: Tensor
    keys: Tensor
    scores: Tensor
    maps: Tensor
    scratch: tuple[Tensor, ...]


def _chunks(q: Tensor, k: Tensor, scale: float, pre: Tensor | None, scratch: int) -> Iterator[_Chunk]:
    """Computes the softmax maps a chunk at a time; the next chunk overwrites the maps of the last.

    Maps are mixed and normalised in float32 or wider; the products before and after have the dtype of q, k and v.
    """
    (batch, h, n, _), dtype = q.shape, _wide(q.dtype)
    values = (CPU_CHUNK_BYTES if q.is_cpu else CHUNK_BYTES) // dtype.itemsize
    rows = min(n, max(1, values // (h * n)))
    samples = min(batch, max(1, values // (h * n * n)))
    # One allocation for all chunks: fresh pages from the system take longer than the arithmetic on them. Mixing the
    # scores needs a third map.
    memory = q.new_empty(max(2 + scratch, 2 if pre is None else 3), samples * h * rows * n, dtype=dtype)
    for b in range(0, batch, samples):
        keys = k[b : b + samples].flatten(0, 1)
        for r in range(0, n, rows):
            at = (slice(b, b + samples), slice(None), slice(r, r + rows))
            queries = q[at].flatten(0, 1)
            shape = (*queries.shape[:2], n)
            scores, maps, *rest = (m[: math.prod(shape)].view(shape) for m in memory)
            _product(queries, keys.mT, scores, scale)
            torch.softmax(scores if pre is None else _mix(pre, scores, rest[0]), -1, out=maps)
            yield _Chunk(at, queries, keys, scores, maps, tuple(rest[:scratch]))


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
        total.add_(torch.bmm(a, b.to(a.dtype)), alpha=scale)


def _product(a: Tensor, b: Tensor, out: Tensor, scale: float = 1.0) -> Tensor:
    """Writes ``scale * a b`` to ``out``; half-precision factors are multiplied as such, the fast way on GPUs."""
    if out.dtype == a.dtype:
        return out.baddbmm_(a, b, beta=0, alpha=scale)
    return out.copy_(torch.bmm(a * scale, b))


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
