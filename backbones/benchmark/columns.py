"""Memory and time of the memory modes over the number of columns, of any network of columns."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from backbones.benchmark.measure import MIB, paired_seconds, peak_mib, ratio, slope, table, training_step

COLUMNS = (2, 4, 8, 16)
MODES = {
    "plain": dict(),
    "reversible, keep_every=1": dict(reversible=True),
    "reversible, keep_every=4": dict(reversible=True, keep_every=4),
}
Peaks = dict[str, dict[int, float]]  # mode -> columns -> MiB


def over_columns(
    args: argparse.Namespace, device: torch.device, x: Tensor, make: Callable[..., nn.Module]
) -> tuple[Peaks, dict[str, list[str]]]:
    """Peaks of a training step, and its times relative to the plain mode's, for ``COLUMNS``.

    Args:
        args: ``repeats`` of the times.
        device: Where to measure.
        x: Images.
        make: A network from a number of columns and the arguments of a mode.
    """
    peaks: Peaks = {name: {} for name in MODES}
    times: dict[str, list[str]] = {name: [] for name in MODES}
    for columns in COLUMNS:
        steps = []
        for name, kwargs in MODES.items():
            net = make(columns, **kwargs).to(device).train()
            peaks[name][columns] = peak_mib(training_step(net, x, list(net.parameters()), keep_grads=True), device)
            steps.append(training_step(net, x, list(net.parameters())))
            print(f"{columns:>2} columns, {name}: {peaks[name][columns]:.1f} MiB", flush=True)
        seconds = paired_seconds(steps, args.repeats)
        for name, own in zip(MODES, seconds, strict=True):
            times[name].append(ratio(own, seconds[0]))
            print(f"{columns:>2} columns, {name}: {times[name][-1]} of the plain step's time", flush=True)
    return peaks, times


def memory_table(peaks: Peaks) -> list[str]:
    """Memory over the number of columns, and of a further one."""
    head = ["mode", *(f"{n} columns" for n in COLUMNS), "per further column"]
    return table(
        head, [(name, *(f"{m:.0f}" for m in own.values()), f"{slope(own):.2f}") for name, own in peaks.items()]
    )


def time_table(times: dict[str, list[str]], repeats: int) -> list[str]:
    """Times relative to the plain mode's, with a heading."""
    head = ["mode", *(f"{n} columns" for n in COLUMNS)]
    return [
        "### Time of a training step, relative to the plain one",
        "",
        f"Median of {repeats} pairs (smallest to largest).",
        "",
        *table(head, [(name, *own) for name, own in times.items() if name != "plain"]),
    ]


def set_mib(x: Tensor, channels: Any, strides: Any) -> float:
    """Size of a column's maps, in MiB."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    return sum(c * pixels / s**2 * 4 for c, s in zip(channels, strides, strict=True)) / MIB
