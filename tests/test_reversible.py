"""Memory modes: the gradients are those of ordinary autograd, and memory follows the stated law."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbones import RevCol
from backbones.benchmark.measure import MIB, peak_mib
from backbones.reversible import AUTO_BOUND, predicted_error

ARCH = dict(channels=(8, 12, 16, 20), depths=(1, 2, 1, 1), num_columns=5)
MODES = [1, 2, 3, 5, "auto"]


def build(mode=None, *, dtype=torch.float64, shortcut=None, arch=ARCH, **kwargs) -> RevCol:
    """A network with weights of ordinary size; ``mode`` is ``keep_every``, None is plain autograd."""
    memory = dict() if mode is None else dict(reversible=True, keep_every=mode)
    net = RevCol(arch, **memory, **kwargs).to(dtype)
    generator = torch.Generator().manual_seed(3)
    for name, p in net.named_parameters():
        values = torch.empty(p.shape)
        if "gamma" in name:
            values.uniform_(0.2, 1, generator=generator)
        elif "alpha" in name:
            values.uniform_(0.4, 1, generator=generator) if shortcut is None else values.fill_(shortcut)
        else:
            values.normal_(std=0.1, generator=generator)
        p.data.copy_(values)
    return net.train()


def image(dtype=torch.float64, size=(2, 3, 48, 64)):
    return torch.rand(size, generator=torch.Generator().manual_seed(4)).to(dtype)


def backward(net, x, seed=5):
    """One step: random draws from ``seed``, gradients of a fixed linear function of the maps."""
    torch.manual_seed(seed)
    feats = net(x)
    weights = torch.Generator().manual_seed(6)
    torch.autograd.backward(feats, [torch.randn(f.shape, generator=weights).to(f.dtype) for f in feats])
    return {name: p.grad for name, p in net.named_parameters() if p.requires_grad}


def assert_same(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        assert torch.linalg.norm(got[name] - grad) <= tolerance * torch.linalg.norm(grad) + 1e-15, name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(),
        dict(drop_path_rate=0.5),
        dict(frozen_stages=0, drop_path_rate=0.3),
        dict(frozen_stages=2),
        dict(out_indices=(0,)),
        dict(out_indices=(1, 2)),
        dict(out_indices=(3,)),
        dict(arch={**ARCH, "top_link": True}),
    ],
    ids=str,
)
def test_gradients_equal_plain_autograd(mode, kwargs):
    x = image().requires_grad_(), image().requires_grad_()
    plain, reversible = backward(build(**kwargs), x[0]), backward(build(mode, **kwargs), x[1])
    assert_same(reversible, plain, 1e-9)
    if kwargs.get("frozen_stages", -1) < 0:
        torch.testing.assert_close(x[0].grad, x[1].grad)


@pytest.mark.parametrize("mode", MODES)
def test_odd_sizes(mode):
    x = image(size=(1, 3, 75, 101))
    assert_same(backward(build(mode), x), backward(build(), x), 1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_come_through_autograd(mode):
    plain, net = build(), build(mode)
    expected = backward(plain, image())
    loss = sum((f * w).sum() for f, w in zip(net(image()), _weights(net), strict=True))
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(loss, parameters)
    assert all(p.grad is None for p in parameters)
    assert_same(dict(zip(names, grads, strict=True)), expected, 1e-9)


def _weights(net):
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        return [torch.randn(f.shape, generator=generator).to(f.dtype) for f in net(image())]


@pytest.mark.parametrize("mode", MODES)
def test_gradients_accumulate_and_hooks_fire_once(mode):
    net = build(mode)
    once = {name: g.clone() for name, g in backward(net, image()).items()}
    backward(net, image())
    assert_same({name: p.grad for name, p in net.named_parameters()}, {k: 2 * g for k, g in once.items()}, 1e-9)
    net.zero_grad()
    calls = []
    name, p = "subnet1.level2.blocks.0.pwconv1.weight", net.subnet1.level2.blocks[0].pwconv1.weight
    p.register_hook(lambda grad: calls.append(1) or 3 * grad)
    torch.testing.assert_close(backward(net, image())[name], 3 * once[name])
    assert len(calls) == 1


@pytest.mark.parametrize("mode", MODES)
def test_backward_may_run_twice_over_one_forward(mode):
    net = build(mode)
    once = backward(build(mode), image())
    loss = sum((f * w).sum() for f, w in zip(net(image()), _weights(net), strict=True))
    loss.backward(retain_graph=True)
    loss.backward()
    assert_same({name: p.grad for name, p in net.named_parameters()}, {k: 2 * g for k, g in once.items()}, 1e-9)


@pytest.mark.parametrize("mode", [1, 3, "auto"])
def test_outputs_are_the_same_bits(mode):
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            plain, reversible = build()(image()), build(mode)(image())
        for a, b in zip(plain, reversible, strict=True):
            assert torch.equal(a, b)


def test_bfloat16_autocast_adds_no_error_with_every_column_kept():
    grads = []
    for mode in (None, 1, "auto"):
        net = build(mode, dtype=torch.float32, drop_path_rate=0.3)
        with torch.autocast("cpu", torch.bfloat16):
            grads.append(backward(net, image(torch.float32)))  # backward runs inside the autocast region, too
    assert_same(grads[1], grads[0], 1e-6)
    assert_same(grads[2], grads[0], 1e-6)  # 'auto' undoes nothing at this precision


def test_casts_made_for_undone_columns_are_not_cached():
    """A forward without stored activations must not leave casts without gradient to a later one in the same region."""
    net = build(2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        net(image(torch.float32))
        net.reversible = False
        grads = backward(net, image(torch.float32))
    assert [name for name, g in grads.items() if g is None] == []


@pytest.mark.parametrize("shortcut", [0.3, 0.5, 0.8, 1.0, None])
def test_auto_keeps_the_gradient_error_under_its_bound(shortcut):
    arch = {**ARCH, "num_columns": 12}
    exact = backward(build(arch=arch, shortcut=shortcut), image())
    got = backward(build("auto", arch=arch, dtype=torch.float32, shortcut=shortcut), image(torch.float32))
    a, b = (torch.cat([g.double().flatten() for g in grads.values()]) for grads in (got, exact))
    assert torch.linalg.norm(a - b) / torch.linalg.norm(b) <= AUTO_BOUND


def test_predicted_error_counts_the_columns_between_kept_ones():
    eps = 1e-7
    assert predicted_error([0.5] * 8, 1, eps) == 0
    assert predicted_error([0.5] * 8, 2, eps) == pytest.approx(2e-7 * 4)
    assert predicted_error([0.5] * 8, 4, eps) == pytest.approx(2e-7 * 4**3)
    assert predicted_error([0.5] * 8, 8, eps) == pytest.approx(2e-7 * 4**7)
    assert predicted_error([1e-9, 1, 1, 1], 8, eps) == pytest.approx(2e-7 * 2**3)  # column 0 is never undone


def peak_bytes(net, x):
    """Peak of the CPU allocator above its level before a step, gradients already allocated; the benchmark's measure."""
    backward(net, x)
    return peak_mib(lambda: backward(net, x), torch.device("cpu")) * MIB


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # one cycle, nothing to clear
@pytest.mark.parametrize(("mode", "columns", "sets"), [(1, (4, 8), 4), (4, (8, 16), 2)])
def test_memory_grows_by_the_kept_maps_alone(mode, columns, sets):
    """A further column costs one set of its maps with ``keep_every=1``, a k-th of one with k."""
    arch = dict(channels=(16, 32, 64, 128), depths=(1, 1, 1, 1))
    x = image(torch.float32, (1, 3, 256, 256))
    small, large = (
        peak_bytes(build(mode, dtype=torch.float32, shortcut=1.0, arch={**arch, "num_columns": n}), x) for n in columns
    )
    one_set = sum(c * (256 // s) ** 2 * 4 for c, s in zip(arch["channels"], (4, 8, 16, 32), strict=True))
    assert large - small == pytest.approx(sets * one_set, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, 1, 3])
def test_compiles_without_graph_breaks(mode):
    """The compiled step gives the plain step's gradients; columns are then never undone."""
    arch = {**ARCH, "depths": (1, 1, 1, 1), "num_columns": 3}
    expected = backward(build(arch=arch), image())
    compiled = torch.compile(build(mode, arch=arch), backend="aot_eager", fullgraph=True)
    got = {name.removeprefix("_orig_mod."): g for name, g in backward(compiled, image()).items()}
    assert_same(got, expected, 1e-9)
    if mode is None:
        with torch.no_grad():
            for a, b in zip(compiled.eval()(image()), build(arch=arch).eval()(image()), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.long  # the suite has test_sharding
@pytest.mark.parametrize("kwargs", [dict(), dict(frozen_stages=1, out_indices=(0, 2))], ids=str)
def test_data_parallel_gradients_are_the_mean(tmp_path, kwargs):
    """Two processes, with and without find_unused_parameters, every mode: the mean over the ranks' images."""
    worker = Path(__file__).with_name("ddp_worker.py")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(worker), str(tmp_path), repr(kwargs)]
    processes = [
        subprocess.Popen([*command, str(rank)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    outputs = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    halves = [backward(build(**kwargs), image(size=(4, 3, 48, 64))[2 * rank : 2 * rank + 2]) for rank in range(2)]
    expected = {name: (halves[0][name] + halves[1][name]) / 2 for name in halves[0]}
    for file in sorted(tmp_path.glob("*.pt")):
        assert_same(torch.load(file, weights_only=True), expected, 1e-9)
    assert len(list(tmp_path.glob("*.pt"))) == 6
