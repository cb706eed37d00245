"""RevCol: memory and time of the memory modes, and the speed of the channels-last layout."""

import argparse
from collections.abc import Sequence
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import RevCol, revcol
from backbones.benchmark.columns import memory_table, over_columns, set_mib, time_table
from backbones.benchmark.measure import (
    images,
    inference,
    memory_picture,
    paired_seconds,
    ratio,
    table,
    training_step,
)
from backbones.benchmark.runtimes import beside_onnxruntime
from backbones.engine import compile_inference
from backbones.layers import linear

HEADING = "RevCol"
DEFAULTS: dict[str, Any] = dict(size=448, batch=2, repeats=7)
TINY = RevCol.parse_arch("tiny")


def measure(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Lines of the section."""
    x = torch.randn(args.batch, 3, args.size, args.size, device=device)
    # Speed first: inference as in a fresh process, whose allocator no training has warmed up.
    parts = [
        speed(args, device, x),
        beside_onnxruntime("RevCol-T", RevCol("tiny").eval(), x.cpu(), args.repeats),
        linear_speed(args, device, x),
        memory(args, device, x),
    ]
    return [line for part in parts for line in [*part, ""]]


def nchw_layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Layer norm over dimension 1."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + norm.eps)
    return norm.weight[:, None, None] * x + norm.bias[:, None, None]


def nchw_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The module's convolution on NCHW maps."""
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups)


def nchw_block(x: Tensor, block: Any) -> Tensor:
    """A ConvNeXt block as its paper draws it: two permutations around the pointwise MLP."""
    y = block.norm(nchw_conv(x, block.dwconv).permute(0, 2, 3, 1))
    y = F.gelu(F.linear(y, block.pwconv1.weight, block.pwconv1.bias))
    y = block.gamma * F.linear(y, block.pwconv2.weight, block.pwconv2.bias)
    return x + y.permute(0, 3, 1, 2)


def nchw_revcol(net: RevCol, x: Tensor) -> list[Tensor]:
    """RevCol's equations written plainly, without fused or folded operations, with the parameters of ``net``.

    Returns:
        The levels of the last column.
    """
    conv, norm = cast(Any, net.stem)
    stem = nchw_layer_norm(nchw_conv(x, conv), norm)
    previous: list[Tensor] | None = None
    for column in net.columns:
        feats: list[Tensor] = []
        for l, level in enumerate(cast(list[Any], column.levels)):
            x = stem if l == 0 else nchw_layer_norm(nchw_conv(feats[-1], level.fusion.down[0]), level.fusion.down[1])
            if previous is not None and l < 3:
                reduce, norm = level.fusion.up.channel_reschedule
                up = norm(F.linear(previous[l + 1].permute(0, 2, 3, 1), reduce.weight, reduce.bias))
                up = up.permute(0, 3, 1, 2)
                x = x + F.interpolate(up, scale_factor=2, mode="nearest")
            for block in level.blocks:
                x = nchw_block(x, block)
            feats.append(x if previous is None else column.alphas[l] * previous[l] + x)
        previous = feats
    assert previous is not None
    return previous


def speed(args: argparse.Namespace, device: torch.device, x: Tensor) -> list[str]:
    """The channels-last layout against the plain equations, also compiled and in bfloat16."""
    net = RevCol("tiny").to(device)
    with torch.no_grad():
        for a, b in zip(net.eval()(x), nchw_revcol(net, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    parameters = list(net.parameters())

    def bfloat16(x: Tensor) -> Sequence[Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            return net(x)

    def whole_maps(x: Tensor) -> Sequence[Tensor]:
        with patch.object(revcol, "CACHED_VALUES", x.numel() * 2**20):
            return net(x)

    compiled = compile_inference(net.eval())
    infer = paired_seconds(
        [inference(f, x) for f in (lambda x: nchw_revcol(net, x), net, compiled, bfloat16, whole_maps)], args.repeats
    )
    net.train()
    train = paired_seconds(
        [training_step(f, x, parameters) for f in (lambda x: nchw_revcol(net, x), net)], args.repeats
    )
    rows = [
        ("training step", "channels last", ratio(train[0], train[1])),
        ("inference", "channels last", ratio(infer[0], infer[1])),
        ("inference", "channels last, hidden maps of the MLPs whole instead of in chunks", ratio(infer[0], infer[4])),
        ("inference", "channels last, `compile_inference`", ratio(infer[0], infer[2])),
        ("inference", "`compile_inference` against channels last in eager mode", ratio(infer[1], infer[2])),
        ("inference", "channels last, bfloat16 autocast", ratio(infer[0], infer[3])),
    ]
    for row in rows:
        print(*row, flush=True)
    return [
        "### Speed against the same equations written in NCHW",
        "",
        f"RevCol-T, {images(x)}, float32 unless stated; how many times as fast, median of {args.repeats} pairs "
        "(smallest to largest). Both writings share their weights and agree to 1e-4.",
        "",
        *table(("pass", "mode", "times as fast"), rows, names=2),
    ]


def linear_speed(args: argparse.Namespace, device: torch.device, x: Tensor) -> list[str]:
    """``backbones.layers.linear`` against ``F.linear``, forward and backward, at the widths of RevCol-T."""
    rows = []
    for width, stride in zip(TINY["channels"], (4, 8, 16, 32), strict=True):
        pixels = torch.randn(x.shape[0], x.shape[2] // stride, x.shape[3] // stride, width, device=device)
        weight = torch.randn(4 * width, width, device=device, requires_grad=True)
        bias = torch.randn(4 * width, device=device, requires_grad=True)
        pixels.requires_grad_()
        steps = [
            training_step(lambda x, f=f, w=weight, b=bias: [f(x, w, b)], pixels, [weight, bias])  # type: ignore[misc]
            for f in (F.linear, linear)
        ]
        rows.append((f"{tuple(pixels.shape)}", f"{4 * width}", ratio(*paired_seconds(steps, args.repeats))))
        print(*rows[-1], flush=True)
    return [
        "### `layers.linear` against `F.linear`",
        "",
        f"Forward and backward, float32; how many times as fast, median of {args.repeats} pairs (smallest to largest).",
        "",
        *table(("map", "output width", "times as fast"), rows),
    ]


def make(columns: int, **mode: Any) -> nn.Module:
    """A network of the tiny size with this many columns."""
    return RevCol({**TINY, "num_columns": columns}, **mode)


def memory(args: argparse.Namespace, device: torch.device, x: Tensor) -> list[str]:
    """Tables and picture over the number of columns, for each memory mode."""
    peaks, times = over_columns(args, device, x, make)
    memory_picture(args.out / "revcol_memory.png", peaks, "columns")
    return [
        "### Memory of a training step (MiB)",
        "",
        f"RevCol at T widths (channels {TINY['channels']}, depths {TINY['depths']}), {images(x)}, float32; forward and "
        "backward, weights and their gradients not counted.",
        "",
        *memory_table(peaks),
        "",
        f"One set of a column's maps is {set_mib(x, TINY['channels'], (4, 8, 16, 32)):.2f} MiB.",
        "",
        "![memory over the number of columns](revcol_memory.png)",
        "",
        *time_table(times, args.repeats),
    ]
