"""Attention with maps mixed over the heads: the textbook's numbers, without a whole map ever being in memory."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones.benchmark.measure import MIB, peak_mib
from backbones.layers import re_attention, talking_heads
from backbones.layers import score_map_operators as operators

B, H, N, D, QD = 3, 4, 10, 5, 7  # queries and keys are longer than values
ROW = H * N * 8  # bytes of one query's scores in float64
CHUNKS = {"one row": 1, "three rows": 3 * ROW, "two samples": 2 * N * ROW, "everything": 2**20}
SCALE, MAP_SCALE = 0.6, 0.3


def plain_talking_heads(q, k, v, scale, pre_weight, pre_bias, post_weight, post_bias):
    maps = torch.einsum("gh,bhij->bgij", pre_weight, scale * q @ k.mT) + pre_bias[:, None, None]
    maps = torch.einsum("gh,bhij->bgij", post_weight, maps.softmax(-1)) + post_bias[:, None, None]
    return maps @ v


def plain_re_attention(q, k, v, scale, matrix_weight, matrix_bias, norm, map_scale):
    maps = (scale * q @ k.mT).softmax(-1)
    return map_scale * norm(F.conv2d(maps, matrix_weight, matrix_bias)) @ v


def random(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()


def random_qkv(dtype=torch.float64, sizes=(B, N, H, D, QD)):
    """Queries, keys and values, strided as slices of one projection's output."""
    batch, n, h, d, qd = sizes
    return [random(batch, n, h, width, dtype=dtype).detach().transpose(1, 2).requires_grad_() for width in (qd, qd, d)]


def random_norm(dtype=torch.float64, h=H, **kwargs):
    norm = nn.BatchNorm2d(h, **kwargs).to(dtype)
    for values in (norm.weight.data, norm.bias.data, norm.running_mean):
        values.normal_()
    norm.running_var.uniform_(0.01, 0.03)
    return norm


def talking(dtype=torch.float64):
    weights = [random(H, H, dtype=dtype), random(H, dtype=dtype), random(H, H, dtype=dtype), random(H, dtype=dtype)]
    return talking_heads, plain_talking_heads, [*random_qkv(dtype), SCALE, *weights]


def re_trained(dtype=torch.float64, training=True):
    norm = random_norm(dtype).train(training)
    weights = [random(H, H, 1, 1, dtype=dtype), random(H, dtype=dtype), norm, MAP_SCALE]
    return re_attention, plain_re_attention, [*random_qkv(dtype), SCALE, *weights]


def re_frozen(dtype=torch.float64):
    return re_trained(dtype, training=False)


KINDS = [talking, re_trained, re_frozen]


def run(attention, args):
    """Output, gradients of all tensors and parameters, and buffers after the step."""
    args = [deepcopy(x) if isinstance(x, nn.Module) else x for x in args]
    modules = [x for x in args if isinstance(x, nn.Module)]
    leaves = [x for x in args if isinstance(x, torch.Tensor)] + [p for m in modules for p in m.parameters()]
    out = attention(*args)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out, *torch.autograd.grad(out, leaves, grad.to(out.dtype)), *(b for m in modules for b in m.buffers())]


def assert_close(got, expected, **kwargs):
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        torch.testing.assert_close(a, b, msg=lambda text, i=i: f"tensor {i}: {text}", **kwargs)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_gradients_and_buffers_are_the_textbooks(monkeypatch, kind, chunk):
    monkeypatch.setattr(operators, "CPU_CHUNK_BYTES", CHUNKS[chunk])
    own, plain, args = kind()
    assert_close(run(own, args), run(plain, args), rtol=1e-9, atol=1e-12)


def test_covariance_has_the_gradient_of_each_entry(monkeypatch):
    """Re-attention itself asks only for sums that are symmetric in the two heads."""
    monkeypatch.setattr(operators, "CPU_CHUNK_BYTES", 3 * ROW)

    def plain(q, k, scale):
        return (scale * q @ k.mT).softmax(-1).transpose(0, 1).flatten(1).cov(correction=0)

    args = [*random_qkv()[:2], SCALE]
    assert_close(run(operators.head_covariance, args), run(plain, args), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.3, None])
def test_running_statistics_are_the_modules_own(momentum):
    norm = random_norm(momentum=momentum)
    expected = deepcopy(norm)
    weight, bias = random(H, H, 1, 1), random(H)
    for _ in range(3):
        qkv = random_qkv()
        re_attention(*qkv, SCALE, weight, bias, norm, MAP_SCALE)
        plain_re_attention(*qkv, SCALE, weight, bias, expected, MAP_SCALE)
    assert_close(norm.buffers(), expected.buffers(), rtol=1e-9, atol=1e-12)


def test_variance_of_nearly_uniform_maps_does_not_cancel():
    """Their spread is a thousandth of their mean: the difference of two mean squares would lose all of float32."""
    q, k, v = random_qkv(torch.float32)
    variances = []
    for dtype, attention in ((torch.float32, re_attention), (torch.float64, plain_re_attention)):
        norm = nn.BatchNorm2d(H, momentum=1.0).to(dtype)
        weight, bias = torch.eye(H, dtype=dtype)[:, :, None, None], torch.zeros(H, dtype=dtype)
        attention(1e-3 * q.to(dtype), k.to(dtype), v.to(dtype), SCALE, weight, bias, norm, MAP_SCALE)
        variances.append(norm.running_var.double())
    torch.testing.assert_close(*variances, rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_is_as_close_as_the_textbook(monkeypatch, kind):
    monkeypatch.setattr(operators, "CPU_CHUNK_BYTES", 3 * ROW // 4)
    own, plain, args = kind(torch.float32)
    exact = run(plain, args)
    args[:3] = (x.detach().bfloat16().requires_grad_() for x in args[:3])
    with torch.autocast("cpu", torch.bfloat16):
        got, rounded = run(own, args), run(plain, args)
    assert got[0].dtype == torch.bfloat16
    for i, (a, b, c) in enumerate(zip(got, rounded, exact, strict=True)):
        error = torch.linalg.norm(a.float() - c.float())
        assert error <= 2 * torch.linalg.norm(b.float() - c.float()) + 5e-3 * torch.linalg.norm(c.float()), i


def test_statistics_are_computed_in_float32():
    q, k, v = (x.detach().bfloat16() for x in random_qkv())
    weight, bias = random(H, H, 1, 1, dtype=torch.float32), random(H, dtype=torch.float32)
    norms = nn.BatchNorm2d(H, momentum=1.0), nn.BatchNorm2d(H, momentum=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        re_attention(q, k, v, SCALE, weight, bias, norms[0], MAP_SCALE)
    plain_re_attention(q.float(), k.float(), v.float(), SCALE, weight, bias, norms[1], MAP_SCALE)
    assert_close(norms[0].buffers(), norms[1].buffers(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients_the_output_is_the_same(kind):
    own, _, args = kind()
    expected = own(*args)
    with torch.no_grad():
        assert torch.equal(own(*args), expected)


# -- memory


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # one cycle, nothing to clear
@pytest.mark.parametrize("kind", KINDS)
def test_no_whole_map_is_ever_in_memory(monkeypatch, kind):
    """A step keeps q, k, v and the output, besides a few chunks; the maps of all heads would be 4 MiB."""
    n, h, d = 512, H, 8
    monkeypatch.setattr(operators, "CPU_CHUNK_BYTES", 64 * 2**10)
    own, _, args = kind(torch.float32)
    args[:3] = random_qkv(torch.float32, (1, n, h, d, d))

    def step():
        own(*args).sum().backward()

    tokens = n * h * d * 4 / MIB
    # Forward keeps the output; backward: gradients of it and of q, k, v, those of k and v also in a second layout.
    assert peak_mib(step, torch.device("cpu")) <= 4 * 64 / 1024 + 8 * tokens < h * n * n * 4 / MIB / 4


@pytest.mark.parametrize("kind", KINDS)
def test_backward_keeps_queries_keys_and_values_only(kind):
    own, _, args = kind()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t}) or t, lambda t: t):
        own(*args)
    large = {pointer for pointer, t in kept.items() if t.numel() > H * H * H}
    assert large == {x.data_ptr() for x in args[:3]}


# -- torch.compile


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_into_one_graph(kind):
    own, _, args = kind()
    compiled = torch.compile(own, backend="aot_eager", fullgraph=True)
    assert_close(run(compiled, args), run(own, args), rtol=1e-9, atol=1e-12)


OPERATORS = {
    "mixed attention": (operators.mixed_attention, operators.mixed_attention_backward, 3, [(H, H), (H, H), (H,)]),
    "without pre": (operators.mixed_attention, operators.mixed_attention_backward, 3, [None, (H, H), (H,)]),
    "covariance": (operators.head_covariance, operators.head_covariance_backward, 2, []),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_registered_soundly(name):
    """Schema, autograd, and the fake outputs for the compiler."""
    forward, backward, tensors, shapes = OPERATORS[name]
    args = [*random_qkv()[:tensors], SCALE, *(shape and random(*shape) for shape in shapes)]
    torch.library.opcheck(forward, tuple(args))

    def layouts(device):
        values = [x.detach().to(device, torch.bfloat16) if isinstance(x, torch.Tensor) else x for x in args]
        out = forward(*values)
        return [(t.shape, t.stride(), t.dtype) for t in (out, *backward(*values, torch.ones_like(out)))]

    assert layouts("meta") == layouts("cpu")


# -- bad input


def test_synchronised_statistics_are_refused():
    q, k, v = random_qkv()
    weights = random(H, H, 1, 1), random(H)
    norm = nn.SyncBatchNorm(H).double()
    with pytest.raises(ValueError, match=r"SyncBatchNorm in training mode.*norm_eval=True"):
        re_attention(q, k, v, SCALE, *weights, norm, MAP_SCALE)
    frozen = nn.BatchNorm2d(H).double().eval()
    assert torch.equal(
        re_attention(q, k, v, SCALE, *weights, norm.eval(), MAP_SCALE),
        re_attention(q, k, v, SCALE, *weights, frozen, MAP_SCALE),
    )
