"""The contract of every registered backbone. A new one joins by being registered."""

import copy
import functools
import inspect
import math
import subprocess
import sys

import pytest
import torch
from archs import small_arch
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

import backbones  # noqa: F401  (registers)
from backbones.base import Backbone, DenseBackbone

BACKBONES = {name: cls for name, cls in MODELS.module_dict.items() if issubclass(cls, DenseBackbone)}
TAKEN = {"BEiT": ("mmseg", "mmpretrain")}  # names of the hosts' own classes; there ours needs its scope
pytestmark = pytest.mark.parametrize("name", BACKBONES)


def build(name: str, **kwargs) -> DenseBackbone:
    """A small arch; presets of some families begin with 86 million parameters."""
    return BACKBONES[name](small_arch(name), **kwargs)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (75, 101), (32, 32)])
def test_maps_have_the_promised_channels_and_sizes(name, size):
    net = build(name).eval()
    channels, strides = net.out_channels, net.strides
    assert strides == (4, 8, 16, 32)
    feats = net(torch.rand(2, 3, *size))
    assert isinstance(feats, tuple)
    assert [f.shape[:2] for f in feats] == [(2, c) for c in channels]
    for f, stride in zip(feats, strides, strict=True):
        for got, pixels in zip(f.shape[2:], size, strict=True):
            assert pixels // stride <= got <= math.ceil(pixels / stride)
        assert f.is_contiguous()  # RoIAlign reads the memory as NCHW


@pytest.mark.parametrize(
    ("given", "expected"), [((1, 3), (1, 3)), ([0, 2], (0, 2)), ((-2, -1), (2, 3)), ((3,), (3,)), ((0,), (0,))]
)
def test_out_indices_choose_maps_and_stay_unchanged(name, given, expected):
    before = copy.copy(given)
    torch.manual_seed(1)
    net = build(name, out_indices=given).eval()
    torch.manual_seed(1)
    everything = build(name).eval()
    x = torch.rand(1, 3, 64, 64)
    assert given == before
    assert net.out_indices == expected
    assert net.strides == tuple(everything.strides[i] for i in expected)
    assert net.out_channels == tuple(everything.out_channels[i] for i in expected)
    whole = everything(x)
    for got, i in zip(net(x), expected, strict=True):
        torch.testing.assert_close(got, whole[i], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(arch="tinny"), "unknown arch 'tinny'.*choose from"),
        (dict(arch=3), "must be one of"),
        (dict(arch=dict(nonsense=1)), "lacks"),
        (dict(out_indices=(4,)), r"out_indices is \(4,\).*between -4 and 3"),
        (dict(out_indices=(1, 0)), "increasing"),
        (dict(out_indices=()), "increasing"),
        (dict(out_indices=2), "must be a sequence"),
        (dict(frozen_stages=99), "frozen_stages is 99.*between -1"),
        (dict(frozen_stages=-2), "frozen_stages is -2.*between -1"),
        (dict(drop_path_rate=1.0), r"drop_path_rate is 1.0.*\[0, 1\)"),
    ],
)
def test_bad_arguments_are_named(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        BACKBONES[name](**{"arch": small_arch(name), **kwargs})


def test_unknown_arch_keys_are_named(name):
    cls = BACKBONES[name]
    arch = {**next(iter(cls.archs.values())), "wdith": 3}
    with pytest.raises(ValueError, match="unknown keys.*wdith"):
        cls(arch)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(1, 4, 64, 64), r"\(1, 4, 64, 64\)"),
        (torch.rand(3, 64, 64), r"\(3, 64, 64\)"),
        (torch.rand(1, 3, 31, 64), "at least 32.*Resize or pad"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "torch.uint8.*normalise"),
        ([torch.rand(3, 64, 64)], "got a list.*Stack"),
    ],
    ids=["channels", "dimensions", "size", "dtype", "list"],
)
def test_bad_input_is_named(name, x, message):
    with pytest.raises(ValueError, match=message):
        build(name)(x)


def test_the_callers_arch_is_not_modified(name):
    arch = {key: list(v) if isinstance(v, tuple) else v for key, v in small_arch(name).items()}
    before = copy.deepcopy(arch)
    BACKBONES[name](arch)(torch.rand(1, 3, 32, 32))
    assert arch == before


def test_train_and_eval_return_the_backbone(name):
    net = build(name)
    assert net.train() is net
    assert net.eval() is net


def test_evaluation_is_deterministic_and_leaves_no_trace(name):
    net = build(name, drop_path_rate=0.5).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        first, second = net(x), net(x)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_drop_path_acts_in_training(name):
    net = build(name, drop_path_rate=0.9).train()
    for parameter in net.parameters():  # layer scales start near zero and would hide the branches
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.rand(2, 3, 64, 64)
    assert not torch.equal(net(x)[-1], net(x)[-1])
    net.drop_path_rate = 1e-12  # draws as before, but nothing is ever dropped
    assert torch.equal(net(x)[-1], net(x)[-1])


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0,), (1, 2)])
def test_every_trainable_parameter_gets_a_gradient(name, out_indices):
    net = build(name, out_indices=out_indices).train()
    sum(f.square().sum() for f in net(torch.rand(2, 3, 64, 64))).backward()
    assert [key for key, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("frozen_stages", [0, 1])
def test_frozen_stages_stay_frozen_and_the_rest_trains(name, frozen_stages):
    net = build(name, frozen_stages=frozen_stages).train()
    frozen = [part for stage in list(net.stages().values())[: frozen_stages + 1] for part in stage]
    ids = {id(p) for part in frozen for p in (part.parameters() if hasattr(part, "parameters") else [part])}
    assert not any(m.training for part in frozen if hasattr(part, "modules") for m in part.modules())
    sum(f.square().sum() for f in net(torch.rand(2, 3, 64, 64))).backward()
    assert ids
    for p in net.parameters():
        assert (p.grad is None) == (id(p) in ids)


def test_frozen_blocks_compute_in_training_as_in_evaluation(name):
    stages = len(build(name).stages())
    net, x = build(name, frozen_stages=stages - 1, drop_path_rate=0.9), torch.rand(4, 3, 64, 64)
    for trained, evaluated in zip(net.train()(x), net.eval()(x), strict=True):
        torch.testing.assert_close(trained, evaluated)


def test_norm_eval_reaches_every_batch_norm(name):
    net = build(name, norm_eval=True).train()
    assert not [key for key, m in net.named_modules() if isinstance(m, _BatchNorm) and m.training]


def test_layer_depths_cover_the_network_and_rise(name):
    net = build(name)
    depths = {key: net.get_layer_depth(f"backbone.{key}", "backbone.") for key, _ in net.named_parameters()}
    (num_depths,) = {n for _, n in depths.values()}
    # A pyramid of the backbone's own counts with the heads.
    assert {d for key, (d, _) in depths.items() if not key.startswith("pyramid.")} == set(range(num_depths - 1))
    assert {d for key, (d, _) in depths.items() if key.startswith("pyramid.")} <= {num_depths - 1}
    assert net.get_layer_depth("neck.conv.weight", "backbone.") == (num_depths - 1, num_depths)
    stage_depths = [
        min(depths[key][0] for key, p in net.named_parameters() if any(p is q for q in _parameters(stage)))
        for stage in net.stages().values()
    ]
    assert stage_depths == sorted(stage_depths)
    assert stage_depths[0] == 0


def _parameters(stage):
    return [p for part in stage for p in (part.parameters() if hasattr(part, "parameters") else [part])]


def test_bfloat16_autocast_gives_finite_maps(name):
    net = build(name).train()
    with torch.autocast("cpu", torch.bfloat16):
        feats = net(torch.rand(1, 3, 64, 64))
    sum(f.float().square().sum() for f in feats).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("host", ["mmdet", "mmseg", "mmpretrain"])
def test_each_host_builds_this_class(name, host):
    registry = __import__(f"{host}.registry", fromlist=["MODELS"]).MODELS
    init_default_scope(host)
    if host in TAKEN.get(name, ()):
        name = f"backbones.{name}"
    cls = BACKBONES[name.rpartition(".")[2]]
    assert registry.get(name) is cls
    with torch.device("meta"):
        assert type(registry.build(dict(type=name))) is cls


@functools.cache
def built_by_scope() -> list[str]:
    """Names of the classes that a process builds which has imported mmengine only."""
    code = (
        "import torch; from mmengine.registry import MODELS; torch.set_default_device('meta'); "
        f"print(*[type(MODELS.build(dict(type='backbones.' + name))).__name__ for name in {list(BACKBONES)}])"
    )
    return subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True).splitlines()[-1].split()


def test_the_scope_needs_no_import(name):
    assert dict(zip(BACKBONES, built_by_scope(), strict=True))[name] == name


def test_the_contracts_arguments_exist(name):
    parameters = {
        key: p
        for cls in BACKBONES[name].__mro__
        if issubclass(cls, Backbone) and "__init__" in vars(cls)
        for key, p in inspect.signature(cls.__init__).parameters.items()
        if p.kind is not p.VAR_KEYWORD
    }
    wanted = {"arch", "out_indices", "frozen_stages", "norm_eval", "drop_path_rate", "init_cfg"}
    assert wanted <= parameters.keys()
    assert all(p.kind is p.KEYWORD_ONLY for key, p in parameters.items() if key not in ("self", "arch"))
