"""Mean and spread over the seeds, in tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backbones.papers._runs import Result

Value = Callable[[Result], float]
SIZES: dict[str, Value] = {  # columns of a table
    "parameters (M)": lambda result: result["parameters"] / 1e6,
    "MMACs": lambda result: result["macs"] / 1e6,
}


def grouped(results: Sequence[Result]) -> dict[tuple[str, Any], list[Result]]:
    """Series and x -> the results of all seeds."""
    groups: dict[tuple[str, Any], list[Result]] = {}
    for result in results:
        groups.setdefault((result["series"], result["x"]), []).append(result)
    return groups


def cell(values: Sequence[float]) -> str:
    """``57 (55 to 60)``: mean, smallest and largest, unless all are equal; a dash without a value."""
    known = [value for value in values if value == value]
    if not known:
        return "-"
    mean, low, high = (f"{value:.3g}" for value in (np.mean(known), min(known), max(known)))
    return mean if low == high else f"{mean} ({low} to {high})"


def table(results: Sequence[Result], columns: Mapping[str, Value]) -> str:
    """A markdown table, a row for each network."""
    rows = [["", *columns], ["---", *["---:"] * len(columns)]]
    for (series, x), group in grouped(results).items():
        name = series if x is None else f"{series}, {x}"
        rows.append([name, *(cell([value(result) for result in group]) for value in columns.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw_lines(axes: Axes, results: Sequence[Result], value: Value, **labels: Any) -> None:
    """A line for each series over its x; the band reaches from the smallest to the largest seed."""
    lines: dict[str, list[tuple[Any, list[float]]]] = {}
    for (series, x), group in grouped(results).items():
        if x is not None:
            lines.setdefault(series, []).append((x, [value(result) for result in group]))
    for series, points in lines.items():
        band(axes, [x for x, _ in points], [values for _, values in points], series)
    axes.set(**labels)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def band(axes: Axes, xs: Sequence[float], values: Sequence[Sequence[float]], label: str) -> None:
    """A line through the means, in a band from the smallest to the largest value at each x."""
    (line,) = axes.plot(xs, [np.mean(v) for v in values], marker="o", markersize=3, label=label)
    low, high = [min(v) for v in values], [max(v) for v in values]
    axes.fill_between(xs, low, high, color=line.get_color(), alpha=0.15)


def draw_curves(axes: Axes, results: Sequence[Result], **labels: Any) -> None:
    """The metric over the epochs, a line for each network."""
    for (series, x), group in grouped(results).items():
        curves = [dict(map(tuple, result["curve"])) for result in group]
        epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
        if epochs:
            name = series if x is None else f"{series}, {x}"
            band(axes, epochs, [[curve[epoch] for curve in curves] for epoch in epochs], name)
    axes.set(**labels)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def accuracy_curves(results: Sequence[Result], untrained: dict[str, Any]) -> Figure:
    """Accuracy over the epochs."""
    figure, (axes,) = panels(1)
    draw_curves(axes, results, xlabel="epoch", ylabel="top-1 (%)")
    return figure


def panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure with axes side by side."""
    figure = Figure(figsize=(5.2 * count, 4.2), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]
