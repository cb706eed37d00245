"""Constructors and images that nobody meant: a result, or an error that names the argument."""

import math
from typing import Any

import pytest
import torch
from archs import small_arch
from hostile import CASES, JUNK, check, result_or_named_error
from hypothesis import strategies as st
from mmengine.registry import MODELS

import backbones  # noqa: F401  (registers)
from backbones.base import DenseBackbone

BACKBONES = {name: cls for name, cls in MODELS.module_dict.items() if issubclass(cls, DenseBackbone)}

# ------------------------------------------------------------------------------------------------------ constructors
LEVELS = st.lists(st.integers(-5, 5), max_size=5)
ARGUMENTS: dict[str, st.SearchStrategy] = {  # values that may be meant, beside junk
    "out_indices": LEVELS,
    "frozen_stages": st.integers(-2, 8),
    "norm_eval": st.booleans(),
    "drop_path_rate": st.floats(-0.5, 1.5),
    "init_cfg": st.sampled_from(
        [
            None,
            dict(type="Constant", layer="Conv2d", val=1.0),
            [dict(type="Pretrained", checkpoint="none.pth")],
            dict(type="Pretrained"),
            dict(type="Pretrained", checkpoint="none.pth", prefx=""),
            dict(checkpoint="none.pth"),
            "none.pth",
        ]
    ),
}
OF_REVCOL = {"reversible": st.booleans(), "keep_every": st.one_of(st.integers(-1, 4), st.just("auto"))}
OF_TRANSFORMERS = {
    "img_size": st.one_of(st.integers(-1, 130), st.lists(st.integers(0, 130), max_size=3)),
    "window_size": st.one_of(st.none(), st.integers(-1, 9)),
    "global_blocks": LEVELS,
    "rel_pos": st.one_of(st.booleans(), st.integers(-1, 130)),
    "layer_scale_init_value": st.floats(),
    "pos_embed": st.sampled_from(["learned", "sincos", "rope"]),
    "with_cp": st.booleans(),
    "taps": LEVELS,
    "pyramid": st.sampled_from(
        [
            "simple",
            "taps",
            None,
            dict(type="SimpleFeaturePyramid", out_channels=8),
            dict(type="SimpleFeaturePyramid", num_outs=5),
            dict(type="SimpleFeaturePyramid", num_outs=3),
            dict(type="SimpleFeaturePyramid", out_channel=8),
            dict(type="SimpleFeaturePyramid", out_channels="8"),
            dict(type="FPN"),
            dict(type="RevCol", arch="nano"),
            dict(out_channels=8),
        ]
    ),
}
OF_REVCOL_VIT = OF_REVCOL | {name: OF_TRANSFORMERS[name] for name in ("img_size", "pyramid")}
OF_ARCHS: dict[str, st.SearchStrategy] = {
    "embed_dims": st.sampled_from([0, 2, 6, 12, 30, 48]),
    "depth": st.integers(0, 5),
    "num_heads": st.integers(0, 4),
    "mlp_ratio": st.sampled_from([0, 0.001, 1, 2.5, -1]),
    "patch_size": st.integers(0, 33),
    "layer_scale_init_value": st.floats(0, 1),
    "apply_transform": st.lists(st.booleans(), max_size=5),
    "cnn_stem": st.booleans(),
    "registers": st.integers(-1, 4),
    **{flag: st.booleans() for flag in ("swiglu", "qkv_bias", "sub_norm")},
    "transform_scale": st.booleans(),
    "scale_adjustment": st.sampled_from([0, 0.5, -1]),
    "stage_depths": st.lists(st.integers(0, 2), max_size=5),
    "stage_channels": st.lists(st.sampled_from([0, 64, 128, 256]), max_size=5),
    "stem_channels": st.sampled_from([0, 32, 48]),
    "channels": st.lists(st.sampled_from([0, 1, 4, 8]), min_size=3, max_size=5),
    "depths": st.lists(st.integers(0, 2), min_size=3, max_size=5),
    "num_columns": st.integers(0, 3),
    "kernel_size": st.integers(-1, 8),
    "top_link": st.booleans(),
    "block": st.sampled_from([None, dict(), dict(type="Nothing"), dict(type="LayerNorm2d"), dict(type="RevCol")]),
    "nonsense": JUNK,
}


def some(strategies: dict[str, st.SearchStrategy], most: int) -> st.SearchStrategy:
    """Values for a few of the names, one in four of them junk."""
    pairs = [st.tuples(st.just(name), st.one_of(s, s, s, JUNK)) for name, s in strategies.items()]
    return st.lists(st.one_of(pairs), max_size=most).map(dict)


@st.composite
def constructions(draw) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(list(BACKBONES)))
    keys = {**BACKBONES[name].arch_defaults, **next(iter(BACKBONES[name].archs.values()))}.keys() | {"nonsense"}
    arch = {**small_arch(name), **draw(some({key: OF_ARCHS[key] for key in sorted(keys)}, 2))}
    if draw(st.integers(0, 9)) == 0:
        arch = draw(JUNK)
    own = {"RevCol": OF_REVCOL, "RevColViT": OF_REVCOL_VIT}.get(name, OF_TRANSFORMERS)
    return name, dict(arch=arch, **draw(some({**ARGUMENTS, **own}, 4)))


@CASES
def test_constructors(cases):
    """What is built also runs, and returns the levels that it promises."""

    def build_and_run(case):
        name, arguments = case
        net = result_or_named_error(lambda: BACKBONES[name](**arguments))
        if isinstance(net, Exception):
            return
        with torch.no_grad():
            feats = net.eval()(torch.rand(1, 3, 40, 33))
        assert [f.shape[1] for f in feats] == list(net.out_channels)
        for f, stride in zip(feats, net.strides, strict=True):
            for got, pixels in zip(f.shape[2:], (40, 33), strict=True):
                assert pixels // stride <= got <= math.ceil(pixels / stride)

    check(cases, build_and_run, constructions())


# ------------------------------------------------------------------------------------------------------------ images
@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    return {name: BACKBONES[name](small_arch(name)).eval() for name in BACKBONES}


DTYPES = [torch.float32] * 6 + [torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.complex64]
SIDES = st.one_of(st.integers(30, 70), st.sampled_from([0, 1, 31, 32, 33, 500]))
LAYOUTS = {
    "plain": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x,
    "permuted": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape),
    "sparse": lambda x: x.to_sparse(),
    "nested": lambda x: torch.nested.nested_tensor(list(x)) if x.dtype == torch.float32 and len(x) else x,
    "numpy": lambda x: x.numpy() if x.dtype != torch.bfloat16 else x,
    "list": list,
    "differentiable": lambda x: x.requires_grad_() if x.is_floating_point() else x,
}


@st.composite
def images(draw):
    name = draw(st.sampled_from(list(BACKBONES)))
    height, width = draw(SIDES), draw(SIDES)
    if height * width > 40000:
        width = 33
    shape = (draw(st.sampled_from([0, 1, 1, 2, 2, 2])), draw(st.sampled_from([1, 3, 3, 3, 3, 3, 4])), height, width)
    shape = shape[draw(st.sampled_from([0, 0, 0, 0, 1])) :]
    autocast = draw(st.sampled_from([None, None, torch.bfloat16]))
    return name, shape, draw(st.sampled_from(DTYPES)), draw(st.sampled_from(list(LAYOUTS))), autocast


@CASES
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
def test_images(nets, cases):
    """A batch that is taken gives the same maps in every layout, and one image's values touch no other image's."""

    def run(case):
        name, shape, dtype, layout, autocast = case
        x = (torch.rand(shape) * 3).to(dtype)
        net = nets[name]

        def maps(x):
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                return net(x)

        feats = result_or_named_error(lambda: maps(LAYOUTS[layout](x)))
        if isinstance(feats, Exception):
            plain = shape[1:2] == (3,) and len(shape) == 4 and shape[0] and min(shape[2:]) >= 32
            assert not (plain and dtype == torch.float32 and layout not in ("sparse", "nested", "numpy", "list")), feats
            return
        for f, stride in zip(feats, net.strides, strict=True):
            assert f.shape[0] == shape[0]
            assert all(
                n // stride <= got <= math.ceil(n / stride) for got, n in zip(f.shape[2:], shape[2:], strict=True)
            )
            assert torch.isfinite(f).all()
        if layout != "expanded":
            for f, same in zip(feats, maps(x.detach().contiguous()), strict=True):
                assert torch.linalg.norm((f - same).double()) <= (3e-2 if autocast else 1e-4) * torch.linalg.norm(same)

    check(cases, run, images())


@CASES
def test_values_that_are_no_numbers_stay_in_their_image(nets, cases):
    """NaN and infinity come out of the image that held them, and change no other image's maps."""

    def run(case):
        name, value, (at, channel, row, column) = case
        x = torch.rand(2, 3, 48, 40)
        with torch.no_grad():
            clean = nets[name](x)
            x[at, channel, row, column] = value
            feats = nets[name](x)
        assert not all(torch.isfinite(f[at]).all() for f in feats)
        for f, g in zip(feats, clean, strict=True):
            torch.testing.assert_close(f[1 - at], g[1 - at], rtol=1e-5, atol=1e-5)

    places = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 47), st.integers(0, 39))
    values = st.sampled_from([math.nan, math.inf, -math.inf])
    check(cases, run, st.tuples(st.sampled_from(list(BACKBONES)), values, places))
