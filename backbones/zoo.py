"""The model zoo: reads ``configs/metafile.yml`` and checks its figures.

A row states the parameters of the whole model, and as ``FLOPs`` the multiply-accumulates of its backbone for one image
of the stated size, attention included.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import torch
import yaml
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from .config.lookup import import_host
from .config.shipped import config_folder
from .families import installed_families

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
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(config_folder() / name)
    scope = cfg.get("default_scope", "mmengine")
    import_host(scope)
    init_default_scope(scope)
    settings = cfg.model
    if "data_preprocessor" in cfg and "data_preprocessor" not in settings:
        settings = {**settings, "data_preprocessor": cfg.data_preprocessor}
    with torch.device("meta"), MODELS.switch_scope_and_registry(scope) as registry:
        model = registry.build(settings)
    counter, mixed = FlopCounterMode(display=False), _MixedAttention()
    with torch.no_grad(), counter, mixed:
        model.backbone.eval()(torch.empty(1, 3, *size, device="meta"))
    # the counter counts a multiplication and an addition as two
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2 + mixed.macs


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


class _MixedAttention(TorchFunctionMode):
    """Counts the products of attention that is mixed over the heads, an operator of this package."""

    macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.backbones.mixed_attention.default:
            q, _, v, _, pre, *_ = args
            batch, heads, tokens, width = q.shape
            mixes = heads * (1 if pre is None else 2)
            self.macs += batch * heads * tokens**2 * (width + v.shape[-1] + mixes)
        return func(*args, **(kwargs or {}))
