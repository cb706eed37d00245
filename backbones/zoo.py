"""The model zoo: reads ``configs/metafile.yml`` and checks its figures.

A row states the parameters of the whole model, and as ``FLOPs`` the multiply-accumulates of its backbone for one image
of the stated size, attention included.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import yaml

from .config.lookup import read_config
from .config.shipped import config_folder
from .families import installed_families
from .info.model import backbone_parts, build_model, count_parameters

OURS = "docs/RESULTS.md"  # the source of our own metrics


def load() -> list[dict[str, Any]]:
    """Models of the metafile, in its order."""
    return yaml.safe_load((config_folder() / "metafile.yml").read_text())["Models"]


def rows(pattern: str = "*") -> list[dict[str, Any]]:
    """Models whose name matches a shell pattern; a pattern without wildcards also matches inside a name."""
    if not set(pattern) & set("*?["):
        pattern = f"*{pattern}*"
    return [model for model in load() if fnmatch(model["Name"], pattern)]


def results(model: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Published metrics of a row, and our own; each empty where there is none."""
    published: dict[str, float] = {}
    ours: dict[str, float] = {}
    for result in model.get("Results", []):
        (published if result["Source"] != OURS else ours).update(result["Metrics"])
    return published, ours


def shown(figure: int | None, unit: float) -> str:
    """A figure in millions or billions, or a dash."""
    return "-" if figure is None else f"{figure / unit:.2f}"


def measure(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters of the model of a config, and multiply-accumulates of its backbone; builds on the meta device.

    Args:
        name: File name of a shipped config.
        size: Height and width of the image.
    """
    model: Any = build_model(read_config(config_folder() / name))
    parts, _ = backbone_parts(model.backbone, size)
    counted = parts[-1].macs
    assert counted is not None
    return count_parameters(model), counted


def check(model: dict[str, Any]) -> list[str]:
    """Compare a row with its config; returns the differences."""
    stated = dict(model["Metadata"])
    if "openmmlab" in installed_families():
        stated["Parameters"] = stated.get("Parameters of upstream", stated.get("Parameters"))
    got = measure(model["Config"].removeprefix("configs/"), tuple(stated["Input size"]))
    return [
        f"{model['Name']}: {name} is {value}, the metafile states {stated.get(name, 'nothing')}"
        for name, value in zip(("Parameters", "FLOPs"), got, strict=True)
        if stated.get(name) != value
    ]
