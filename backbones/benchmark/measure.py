"""Measures steps of a network, time in pairs and memory exactly, and formats the results."""

import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

MIB = 2**20
Net = Callable[[Tensor], Sequence[Tensor]]
Step = Callable[[], None]
Points = Mapping[int, float]  # a size and its memory in MiB, sizes rising


def training_step(
    net: Net,
    x: Tensor,
    parameters: Sequence[nn.Parameter],
    keep_grads: bool = False,
    grads: Sequence[Tensor] | None = None,
) -> Step:
    """One forward and backward of a linear function of the maps.

    Gradients are freed before the step, as by an optimizer, or with ``keep_grads`` allocated now and never freed.
    Those of the maps are ``grads``, or drawn.
    """
    if grads is None:
        with torch.no_grad():
            grads = [torch.randn_like(f) for f in net(x)]
    for p in parameters:
        p.grad = torch.zeros_like(p) if keep_grads else None

    def step() -> None:
        for p in parameters:
            if not keep_grads:
                p.grad = None
        torch.autograd.backward(tuple(net(x)), grads)

    return step


def inference(net: Net, x: Tensor) -> Step:
    """One forward without gradients."""

    def step() -> None:
        with torch.no_grad():
            net(x)

    return step


def peak_mib(step: Step, device: torch.device) -> float:
    """Peak of the device's allocator during ``step`` above its level before, in MiB."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's library calls a missing GPU an error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Profiler clears events")  # of an earlier profile; this one is new
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
            step()
    level = peak = 0
    events = [e for e in cast(Any, prof).profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak / MIB


def paired_seconds(steps: Sequence[Step], repeats: int) -> list[list[float]]:
    """Seconds of steps that run in turn, ``repeats`` times after one warm-up; equal positions are pairs."""
    for step in steps:
        step()
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
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(a: Sequence[float], b: Sequence[float]) -> str:
    """Median of the paired ratios a / b, with the smallest and the largest."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def slope(points: Points) -> float:
    """MiB per unit of size, between the smallest and the largest."""
    first, *_, last = points
    return (points[last] - points[first]) / (last - first)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> list[str]:
    """A markdown table whose first ``names`` columns hold text, the others numbers."""
    rules = ["---" if i < names else "---:" for i in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, rules, *rows)]


def memory_picture(file: Path, lines: Mapping[str, Points], xlabel: str, until: int = 0) -> None:
    """Draw memory over size on a logarithmic scale; the dashed part, up to ``until``, extrapolates the slope."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for (name, points), marker in zip(lines.items(), "osx^v", strict=False):
        (dots,) = axes.plot(list(points), list(points.values()), marker, label=name)
        first, *_, last = points
        measured, further = range(first, last + 1), range(last, until + 1)
        axes.plot(measured, np.interp(measured, list(points), list(points.values())), color=dots.get_color())
        axes.plot(further, [points[last] + slope(points) * (n - last) for n in further], "--", color=dots.get_color())
    axes.set(xlabel=xlabel, ylabel="peak memory of a training step (MiB)", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def images(x: Tensor) -> str:
    """``2 images of 448 x 448``."""
    return f"{len(x)} {'image' if len(x) == 1 else 'images'} of {x.shape[2]} x {x.shape[3]}"


def machine(device: torch.device) -> str:
    """Processor, threads and versions of the measurement."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu_name()
    return f"{name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, Python {platform.python_version()}"


def cpu_name() -> str:
    """The processor's name according to Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
