"""Layer-wise learning-rate decay for every backbone that has ``get_layer_depth``."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

OPTIONS = ("layer_decay_rate", "flat_decay_mult", "custom_keys")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DenseLayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Gives each parameter the learning rate ``lr * layer_decay_rate ** (num_depths - 1 - depth)``.

    ``depth`` and ``num_depths`` come from ``get_layer_depth(name, prefix)`` of the model's backbone, wherever in the
    model it sits; heads and necks train at the full rate. One parameter group per distinct (depth, multipliers), logged
    as a table.

    ``paramwise_cfg`` takes

    - ``layer_decay_rate``: in (0, 1]; 1 leaves the rates alone;
    - ``flat_decay_mult``: weight-decay multiplier of parameters with one dimension (norms, biases, layer scales);
      default 0, as every recipe of these papers has it;
    - ``custom_keys``: as in mmengine, ``{part of a name: dict(lr_mult=..., decay_mult=...)}``; the longest match
      counts, and
      ``lr_mult`` multiplies the decayed rate.

    Raises:
        ValueError: for other options, a rate outside (0, 1], or a model without ``get_layer_depth``.

    Source: the rule of BEiT (arXiv:2106.08254) with the depths of each backbone's paper.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor="DenseLayerDecayOptimWrapperConstructor",
        ...     optimizer=dict(type="AdamW", lr=2e-4, weight_decay=0.05),
        ...     paramwise_cfg=dict(layer_decay_rate=0.85, custom_keys={"alpha": dict(decay_mult=0.0)}),
        ... )
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        if unknown := self.paramwise_cfg.keys() - set(OPTIONS):
            raise ValueError(f"paramwise_cfg has unknown keys {sorted(unknown)}; known are {list(OPTIONS)}")
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if rate is None or not 0 < rate <= 1:
            raise ValueError(f"paramwise_cfg: layer_decay_rate is {rate}; it must lie in (0, 1], for example 0.85")
        if self.base_lr is None:
            raise ValueError("the optimizer has no lr; layer-wise rates are multiples of it")

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: int | float | None = None
    ) -> None:
        """Appends the parameter groups of ``module``, deepest last, to ``params``."""
        # {prefix: backbone}. A host's classifier has the method too and asks its backbone, which is the one further
        # down.
        backbones: dict[str, Any] = {
            f"{name}." if name else "": child
            for name, child in module.named_modules()
            if callable(getattr(child, "get_layer_depth", None))
        }
        backbones = {
            name: child
            for name, child in backbones.items()
            if not any(other != name and other.startswith(name) for other in backbones)
        }
        if not backbones:
            raise ValueError(
                f"{type(module).__name__} has no backbone with get_layer_depth(name, prefix), so there are no "
                "depths to decay by; use a backbone of this package, or mmengine's DefaultOptimWrapperConstructor"
            )
        custom_keys = self.paramwise_cfg.get("custom_keys", {})
        flat_decay_mult = self.paramwise_cfg.get("flat_decay_mult", 0.0)

        groups: dict[tuple[int, float, float], dict[str, Any]] = defaultdict(lambda: dict(params=[], param_names=[]))
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            owner = next((p for p in backbones if name.startswith(p)), next(iter(backbones)))
            depth, num_depths = backbones[owner].get_layer_depth(name, owner)
            matches = sorted((key for key in custom_keys if key in name), key=len)
            custom = custom_keys[matches[-1]] if matches else {}
            lr_scale = self.paramwise_cfg["layer_decay_rate"] ** (num_depths - 1 - depth) * custom.get("lr_mult", 1.0)
            decay_mult = custom.get("decay_mult", flat_decay_mult if param.ndim <= 1 else 1.0)
            group = groups[depth, lr_scale, decay_mult]
            group["params"].append(param)
            group["param_names"].append(name)
            group["lr"] = self.base_lr * lr_scale
            group["lr_scale"] = lr_scale
            if self.base_wd is not None:
                group["weight_decay"] = self.base_wd * decay_mult
        rows = [(key[0], groups[key]) for key in sorted(groups)]
        params.extend(group for _, group in rows)
        print_log(_table(rows), logger="current")


def _table(rows: list[tuple[int, dict[str, Any]]]) -> str:
    lines = ["parameter groups of the optimizer:", " depth          lr  weight decay  tensors  parameters  first"]
    for depth, group in rows:
        count = sum(p.numel() for p in group["params"])
        decay = group.get("weight_decay", float("nan"))
        lines.append(
            f"{depth:>6}  {group['lr']:>10.3e}  {decay:>12.4g}  {len(group['params']):>7}  {count:>10,}  "
            f"{group['param_names'][0]}"
        )
    return "\n".join(lines)
