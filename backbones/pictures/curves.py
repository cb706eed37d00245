"""Loss and metric curves of training runs, from the scalars that mmengine's LoggerHook writes into a work dir."""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from backbones.usage import UsageError, make_folder

Record = dict[str, Any]
NOT_METRICS = {"data_time", "time", "step", "epoch", "iter"}


def read_runs(work_dir: Path) -> list[Record]:
    """Records of all runs in a work dir, oldest first; of iterations that a resumed run repeated, the later ones.

    Raises:
        UsageError: for a log with a line that no training wrote.
    """
    merged: list[Record] = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):  # the folders are named by time
        lines = file.read_text(errors="replace").splitlines()
        records = [_record(line, file) for line in lines if line.endswith("}")]  # one was killed while writing
        first = next((record["step"] for record in records if "loss" in record), None)
        if first is not None:
            cut = next((i for i, r in enumerate(merged) if "loss" in r and r["step"] >= first), len(merged))
            merged = merged[:cut]
        merged += records
    return merged


def _record(line: str, file: Path) -> Record:
    with suppress(ValueError, LookupError, TypeError):
        record = json.loads(line)
        needed = ("step", "loss", "time") if "loss" in record else ("step",)
        if all(isinstance(record[key], (int, float)) for key in needed):
            return record
    raise UsageError(f"{file} is no log of a training: {line[:80]!r} is no record with the numbers of a step")


def split(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Training records, and evaluations with the iteration before them as ``iteration``."""
    training, evaluations = [], []
    for record in records:
        if "loss" in record:
            training.append(record)
        else:
            evaluations.append(record | {"iteration": training[-1]["step"] if training else 0})
    return training, evaluations


def main_metrics(evaluations: list[Record]) -> list[str]:
    """The metrics to draw: COCO's AP and AP50 if there are any, otherwise all."""
    names = dict.fromkeys(name for record in evaluations for name in record.keys() - NOT_METRICS - {"iteration"})
    if not evaluations:
        return []
    numbers = sorted(name for name in names if isinstance(evaluations[-1].get(name), (int, float)))
    return [name for name in numbers if name.endswith(("_mAP", "_mAP_50"))] or numbers


def draw(training: list[Record], evaluations: list[Record], metrics: list[str], out: Path) -> None:
    """Write loss curves above metric curves, over the same iterations."""
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(8, 8), layout="constrained")
    axes[0].set(ylabel="training loss")
    axes[1].set(xlabel="iteration", ylabel="validation metric")
    losses = [name for name in training[-1] if "loss" in name]
    for name in sorted(losses, key=lambda name: name != "loss"):
        points = [(r["step"], r[name]) for r in training if name in r]
        axes[0].plot(*zip(*points, strict=True), label=name, linewidth=2 if name == "loss" else 1)
    for name in metrics:
        points = [(r["iteration"], r[name]) for r in evaluations if name in r]
        axes[1].plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    finish(figure, out)


def draw_beside(runs: dict[str, tuple[list[Record], list[Record]]], out: Path) -> None:
    """Write the loss of several runs beside each of their metrics, a colour for each run."""
    metrics = list(dict.fromkeys(name for _, evaluations in runs.values() for name in main_metrics(evaluations)))
    rows = math.ceil((1 + len(metrics)) / 2)
    figure = plt.figure(figsize=(12, 3.5 * rows), layout="constrained")
    for place, name in enumerate(["loss", *metrics], 1):
        axis = figure.add_subplot(rows, 2, place, sharex=figure.axes[0] if figure.axes else None)
        axis.set(xlabel="iteration", ylabel="training loss" if name == "loss" else name)
        for run, (training, evaluations) in runs.items():
            step, records = ("step", training) if name == "loss" else ("iteration", evaluations)
            points = [(r[step], r[name]) for r in records if name in r]
            axis.plot(*zip(*points, strict=True), label=run, marker="" if name == "loss" else "o", markersize=3)
    finish(figure, out)


def finish(figure: Figure, out: Path) -> None:
    """Write a figure with a grid, a legend and an axis from zero."""
    for axis in figure.axes:
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
            if all(np.min(line.get_ydata()) >= 0 for line in axis.lines):
                axis.set_ylim(bottom=0)
    make_folder(out.parent)
    figure.savefig(out, dpi=120)


def training_time(training: list[Record]) -> timedelta:
    """Time of the training iterations: their logged mean times their number."""
    steps = [0] + [record["step"] for record in training]
    seconds = sum(r["time"] * (now - before) for r, before, now in zip(training, steps, steps[1:], strict=False))
    return timedelta(seconds=round(seconds))


def table(training: list[Record], evaluations: list[Record], metrics: list[str]) -> str:
    """Last and best value of each metric, and the training time."""
    width = max(map(len, [*metrics, "training time"]))
    lines = [f"{'metric':{width}}  {'last':>7}  {'best':>7}  at iteration"] if metrics else ["no evaluation yet"]
    for name in metrics:
        values = [(record[name], record["iteration"]) for record in evaluations if name in record]
        best, iteration = max(values, key=lambda pair: pair[0])
        lines.append(f"{name:{width}}  {values[-1][0]:7.3f}  {best:7.3f}  {iteration}")
    last = training[-1]
    lines.append(
        f"{'training time':{width}}  {training_time(training)} for {last['step']} iterations, evaluation not counted"
    )
    lines.append(f"{'last loss':{width}}  {last['loss']:.4f}")
    return "\n".join(lines)
