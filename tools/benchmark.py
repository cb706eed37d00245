#!/usr/bin/env python
"""Measures the backbones and writes docs/BENCHMARKS.md with its pictures.

Time is compared inside one run only, step by step in turn, as the median of the paired ratios; single times of a shared
machine say little. Memory is exact: the highest level of the allocator during a step above its level before it.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from backbones import RevCol
from backbones.layers import linear

TINY = RevCol.parse_arch("tiny")
MIB = 2**20
Step = Callable[[], None]


def training_step(
    net: Callable[[Tensor], Sequence[Tensor]], x: Tensor, parameters: Sequence[nn.Parameter], keep_grads: bool = False
) -> Step:
    """One forward and backward of a linear function of the maps.

    Gradients are dropped before the step, as optimisers do, or with ``keep_grads`` stay allocated and are zeroed.
    """
    with torch.no_grad():
        grads = [torch.randn_like(f) for f in net(x)]

    def step() -> None:
        for p in parameters:
            if keep_grads and p.grad is not None:
                p.grad.zero_()
            else:
                p.grad = None
        torch.autograd.backward(tuple(net(x)), grads)

    step()
    return step


def inference(net: Callable[[Tensor], Sequence[Tensor]], x: Tensor) -> Step:
    """One forward without gradients."""

    def step() -> None:
        with torch.no_grad():
            net(x)

    step()
    return step


def peak_mib(step: Step, device: torch.device) -> float:
    """Highest level of the device's allocator during ``step`` above its level before, in MiB."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        step()
    level = peak = 0
    events = [e for e in cast(Any, prof).profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak / MIB


def paired_seconds(steps: Sequence[Step], repeats: int) -> list[list[float]]:
    """Runs the steps in turn, ``repeats`` times: seconds of each, so that equal positions make pairs."""
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, times in zip(steps, seconds, strict=True):
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            times.append(time.perf_counter() - start)
    return seconds


def synchronize() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(a: Sequence[float], b: Sequence[float]) -> str:
    """Median of the paired ratios a / b, with the smallest and the largest."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


# -- RevCol's equations written plainly: NCHW maps, layer norm spelled out, nothing fused or folded


def nchw_layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Layer norm over dimension 1."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + norm.eps)
    return norm.weight[:, None, None] * x + norm.bias[:, None, None]


def nchw_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The module's convolution, on NCHW."""
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, groups=conv.groups)


def nchw_block(x: Tensor, block: Any) -> Tensor:
    """A ConvNeXt block as its paper draws it: two permutations around the pointwise MLP."""
    y = block.norm(nchw_conv(x, block.dwconv).permute(0, 2, 3, 1))
    y = F.gelu(F.linear(y, block.pwconv1.weight, block.pwconv1.bias))
    y = block.gamma * F.linear(y, block.pwconv2.weight, block.pwconv2.bias)
    return x + y.permute(0, 3, 1, 2)


def nchw_revcol(net: RevCol, x: Tensor) -> list[Tensor]:
    """The levels of the last column, from the same parameters as ``net``'s own forward."""
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


# -- RevCol: memory and time


def revcol_memory(args: argparse.Namespace, device: torch.device, x: Tensor) -> list[str]:
    """Table and picture over the number of columns, for each memory mode."""
    modes = {
        "plain": dict(),
        "reversible, keep_every=1": dict(reversible=True),
        "reversible, keep_every=4": dict(reversible=True, keep_every=4),
    }
    memory: dict[str, list[float]] = {name: [] for name in modes}
    times: dict[str, list[str]] = {name: [] for name in modes}
    for columns in args.columns:
        steps = []
        for name, kwargs in modes.items():
            net = RevCol({**TINY, "num_columns": columns}, **kwargs).to(device).train()
            memory[name].append(peak_mib(training_step(net, x, list(net.parameters()), keep_grads=True), device))
            steps.append(training_step(net, x, list(net.parameters())))
            print(f"{columns:>2} columns, {name}: {memory[name][-1]:.1f} MiB", flush=True)
        seconds = paired_seconds(steps, args.repeats)
        for name, own in zip(modes, seconds, strict=True):
            times[name].append(ratio(own, seconds[0]))
            print(f"{columns:>2} columns, {name}: {times[name][-1]} of the plain step's time", flush=True)

    span = args.columns[-1] - args.columns[0]
    head = " | ".join(f"{n} columns" for n in args.columns)
    rows = [
        f"| {name} | {' | '.join(f'{m:.0f}' for m in values)} | {(values[-1] - values[0]) / span:.2f} |"
        for name, values in memory.items()
    ]
    time_rows = [f"| {name} | {' | '.join(times[name])} |" for name in modes if name != "plain"]
    figure, axes = plt.subplots(figsize=(6.4, 4))
    for name, values in memory.items():
        axes.plot(args.columns, values, marker="o", label=name)
    axes.set(xlabel="columns", ylabel="peak memory of a training step (MiB)", xticks=args.columns, yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(args.out / "revcol_memory.png", dpi=120)
    return [
        "### Memory of a training step (MiB)",
        "",
        f"RevCol at T widths (channels {TINY['channels']}, depths {TINY['depths']}), {shape(x)}, float32; forward and "
        "backward, weights and their gradients not counted.",
        "",
        f"| mode | {head} | per further column |",
        f"| --- |{' ---: |' * (len(args.columns) + 1)}",
        *rows,
        "",
        f"One set of a column's maps is {one_set(x):.2f} MiB.",
        "",
        "![memory over the number of columns](revcol_memory.png)",
        "",
        "### Time of a training step, relative to the plain one",
        "",
        f"Median of {args.repeats} pairs (smallest to largest).",
        "",
        f"| mode | {head} |",
        f"| --- |{' ---: |' * len(args.columns)}",
        *time_rows,
    ]


def one_set(x: Tensor) -> float:
    """Size of the four maps of a column of T widths, in MiB."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    return sum(c * pixels / s**2 * 4 for c, s in zip(TINY["channels"], (4, 8, 16, 32), strict=True)) / MIB


def revcol_speed(args: argparse.Namespace, device: torch.device, x: Tensor) -> list[str]:
    """The channels-last writing against the plain one, and what compiling and bfloat16 add."""
    net = RevCol("tiny").to(device)
    with torch.no_grad():
        for a, b in zip(net.eval()(x), nchw_revcol(net, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    parameters = list(net.parameters())
    compiled = torch.compile(net, fullgraph=True)

    def bfloat16(x: Tensor) -> Sequence[Tensor]:
        with torch.autocast(device.type, torch.bfloat16):
            return net(x)

    net.eval()
    infer = paired_seconds(
        [inference(f, x) for f in (lambda x: nchw_revcol(net, x), net, compiled, bfloat16)], args.repeats
    )
    net.train()
    train = paired_seconds(
        [training_step(f, x, parameters) for f in (lambda x: nchw_revcol(net, x), net)], args.repeats
    )
    rows = [
        ("training step", "channels last", ratio(train[0], train[1])),
        ("inference", "channels last", ratio(infer[0], infer[1])),
        ("inference", "channels last, torch.compile(fullgraph=True)", ratio(infer[0], infer[2])),
        ("inference", "channels last, bfloat16 autocast", ratio(infer[0], infer[3])),
    ]
    for row in rows:
        print(*row, flush=True)
    return [
        "### Speed against the same equations written in NCHW",
        "",
        f"RevCol-T, {shape(x)}, float32 unless stated; how many times as fast, median of {args.repeats} pairs "
        "(smallest to largest). Both writings share their weights and agree to 1e-4.",
        "",
        "| what | how | times as fast |",
        "| --- | --- | ---: |",
        *(f"| {what} | {how} | {value} |" for what, how, value in rows),
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
        rows.append(f"| {tuple(pixels.shape)} | {4 * width} | {ratio(*paired_seconds(steps, args.repeats))} |")
        print(rows[-1], flush=True)
    return [
        "### `layers.linear` against `F.linear`",
        "",
        f"Forward and backward, float32; how many times as fast, median of {args.repeats} pairs (smallest to largest).",
        "",
        "| map | output width | times as fast |",
        "| --- | ---: | ---: |",
        *rows,
    ]


def shape(x: Tensor) -> str:
    """``2 images of 448 x 448``."""
    return f"{x.shape[0]} images of {x.shape[2]} x {x.shape[3]}"


def machine(device: torch.device) -> str:
    """Names what the figures were measured on."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu_name()
    return f"{name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, Python {platform.python_version()}"


def cpu_name() -> str:
    """The processor's name as Linux knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[2, 4, 8, 16], help="numbers of columns, rising")
    parser.add_argument("--size", type=int, default=448, help="side of the square images, in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--repeats", type=int, default=7, help="timed pairs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs", help="folder to write into")
    args = parser.parse_args()
    if len(set(args.columns)) < 2:
        parser.error(f"--columns {args.columns}: the slope needs at least two different numbers, for example 2 4 8 16")
    return args


def main() -> None:
    """Measure everything and write the page."""
    args = parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    x = torch.randn(args.batch, 3, args.size, args.size, device=device)
    # Speed first: inference as in a fresh process, whose allocator no training has warmed up.
    sections = [section(args, device, x) for section in (revcol_speed, linear_speed, revcol_memory)]
    command = shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]])
    lines = [
        "# Benchmarks",
        "",
        f"Written by `{command}` on {datetime.date.today()}: {machine(device)}.",
        "",
        "Time ratios are paired inside this run. Memory is exact: "
        + ("`torch.cuda.max_memory_allocated`" if device.type == "cuda" else "the CPU allocator, from `torch.profiler`")
        + ", above its level before the step.",
        "",
        "## RevCol",
        *(line for section in sections for line in ["", *section]),
    ]
    (args.out / "BENCHMARKS.md").write_text("\n".join(lines) + "\n")
    print(f"wrote {args.out / 'BENCHMARKS.md'}")


if __name__ == "__main__":
    main()
