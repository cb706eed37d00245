"""Mixed precision: nothing overflows, and what must be exact stays in float32."""

import copy

import pytest
import torch
from archs import small_arch
from mmengine.registry import MODELS
from test_reversible import ARCH, build, image
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import DenseBackbone
from backbones.layers import re_attention, talking_heads

BACKBONES = {name: cls for name, cls in MODELS.module_dict.items() if issubclass(cls, DenseBackbone)}
HALF = [torch.bfloat16, torch.float16]
LARGEST = 1e4  # of a pixel
IMAGES = {
    "noise": lambda x: (LARGEST * x).clamp(-LARGEST, LARGEST),
    "even": lambda x: torch.full_like(x, LARGEST),  # every product of a convolution adds up
    "signs": lambda x: LARGEST * x.sign(),
}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", BACKBONES)
def test_large_pixels_give_finite_maps_and_gradients(name, dtype):
    for make in IMAGES.values():
        net = BACKBONES[name](small_arch(name)).train()
        with torch.autocast("cpu", dtype):
            feats = net(make(torch.randn(2, 3, 64, 64)))
        sum(f.float().square().mean() for f in feats).backward()
        assert all(torch.isfinite(f).all() for f in feats)
        assert [key for key, p in net.named_parameters() if not torch.isfinite(p.grad).all()] == []


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ["CeiT", "DeepViT"])
def test_batch_statistics_stay_in_float32(name, dtype):
    """Those of autocast differ from those of float32 by the rounding of their inputs, not of the sums."""
    arch = {**small_arch(name), **(dict(cnn_stem=True) if name == "DeepViT" else {})}
    net = BACKBONES[name](arch).train()
    x = torch.rand(2, 3, 64, 64)
    mixed = copy.deepcopy(net)
    net(x)
    with torch.autocast("cpu", dtype):
        mixed(x)
    norms = [(key, m) for key, m in net.named_modules() if isinstance(m, _BatchNorm)]
    assert norms
    for key, norm in norms:
        other = mixed.get_submodule(key)
        assert other.running_var.dtype == other.running_mean.dtype == torch.float32
        # Half precision counts to 2048, bfloat16 to 256: sums over 8192 values in them would be off by far more.
        torch.testing.assert_close(other.running_var, norm.running_var, rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", ["talking heads", "re-attention"])
def test_maps_are_mixed_and_normalised_in_float32(kind, dtype):
    """Differences between heads, and between mixing weights, that half precision cannot see."""
    n, small = 64, 2.0**-12
    q, k, v = (torch.zeros(1, 2, n, 1, dtype=dtype) for _ in range(3))
    q[:], k[0, 1, 0], v[0, :, 0] = 1, small, 1  # head 1 looks at the first key a little more
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    weight = torch.tensor([[1.0, -1.0], [1.0 + small, -1.0]]).requires_grad_()
    if kind == "talking heads":
        out = talking_heads(q, k, v, 1.0, torch.eye(2), torch.zeros(2), weight, torch.zeros(2))
    else:
        norm = torch.nn.BatchNorm2d(2, eps=0).eval()
        out = re_attention(q, k, v, 1.0, weight[:, :, None, None], torch.zeros(2), norm, 1.0)
    more = small * (n - 1) / n**2  # of the first key's share, which is 1 / n
    torch.testing.assert_close(out[0, 0, :, 0].float(), torch.full((n,), -more), rtol=0.01, atol=0)
    torch.testing.assert_close(out[0, 1, :, 0].float(), torch.full((n,), small / n - more), rtol=0.03, atol=0)
    (grad,) = torch.autograd.grad(out[0, 0].float().sum(), weight)
    torch.testing.assert_close(grad[0, 1] - grad[0, 0], torch.tensor(n * more), rtol=0.01, atol=0)


@pytest.mark.parametrize("mode", [1, 2, 3, 5, "auto"])
def test_memory_modes_are_as_exact_as_autograd_in_bfloat16(mode):
    """The distance of the gradient from that of float64."""

    def gradient(mode, dtype, autocast):
        net = build(mode, dtype=dtype, arch={**ARCH, "num_columns": 6})
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            feats = net(image(dtype))
        weights = torch.Generator().manual_seed(6)
        torch.autograd.backward(feats, [torch.randn(f.shape, generator=weights).to(f.dtype) for f in feats])
        return torch.cat([p.grad.double().flatten() for p in net.parameters()])

    exact = gradient(None, torch.float64, autocast=False)
    plain, got = (torch.linalg.norm(gradient(m, torch.float32, True) - exact) for m in (None, mode))
    assert plain / torch.linalg.norm(exact) > 1e-4  # there is something to compare
    assert got <= 1.05 * plain


@pytest.mark.parametrize("mode", [pytest.param(1, marks=pytest.mark.long), 3])
def test_the_gradient_scaler_works_with_memory_modes(mode):
    """Same steps as with ordinary autograd; an overflow skips the step and leaves nothing behind."""

    def train(mode):
        net = build(mode, dtype=torch.float32)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
        skipped = 0
        for _ in range(40):
            before, scale = net.stem[0].weight.detach().clone(), scaler.get_scale()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = sum(f.float().square().mean() for f in net(image(torch.float32)))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() < scale:
                skipped += 1
                assert torch.equal(net.stem[0].weight, before)
        return skipped, loss.item(), net

    (skipped, loss, net), (_, plain_loss, _) = train(mode), train(None)
    assert 0 < skipped < 40
    assert all(torch.isfinite(p).all() for p in net.parameters())
    assert loss == pytest.approx(plain_loss, rel=1e-2)
