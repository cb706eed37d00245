"""A model whose training is divided over the processes by DeepSpeed's ZeRO.

Stage 2 divides gradients and the optimizer's state, stage 3 also the parameters: those of a unit (``Backbone.units``)
are gathered where it runs, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine._strategy import DeepSpeedStrategy
from mmengine._strategy.deepspeed import DeepSpeedOptimWrapper
from mmengine.config import Config, ConfigDict
from mmengine.dist import get_world_size, is_main_process
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, STRATEGIES
from mmengine.runner import CheckpointLoader, save_checkpoint
from torch import nn

from backbones.base import Backbone
from backbones.columns import Column, clamped
from backbones.engine.safe_checkpoints import WEIGHTS, type_name
from backbones.errors import SetupError

try:
    from deepspeed import utils as deepspeed_utils  # type: ignore[import-not-found]
    from deepspeed.runtime.zero import GatheredParameters  # type: ignore[import-not-found]
except ImportError:
    GatheredParameters = deepspeed_utils = None

OPTIONS = {"type", "optimizer", "constructor", "paramwise_cfg"}  # of optim_wrapper
SCOPE = "_scope_"  # mmengine's mark of settings that a host's config gave


@OPTIM_WRAPPERS.register_module()
class ZeroOptimWrapper(DeepSpeedOptimWrapper):
    """mmengine's wrapper, whose step autograd does not watch: gloo writes into views of parameters."""

    @torch.no_grad()
    def step(self, **kwargs: Any) -> None:
        """Update the parameters."""
        super().step(**kwargs)
        clamp_shortcuts(self.model.module)


@STRATEGIES.register_module()
class ZeroStrategy(DeepSpeedStrategy):
    """mmengine's strategy, with the optimizer's settings of any other config and the units of this package's backbones.

    Batch size and clipping go where DeepSpeed reads them. A checkpoint is a folder: parts for as many processes, and
    ``weights.pth`` with the whole weights and the step, which is read as any other checkpoint.

    Args:
        zero_optimization: ``dict(stage=2)`` or ``dict(stage=3)``, and DeepSpeed's further options.
        kwargs: As mmengine's.

    Raises:
        SetupError: if DeepSpeed is not installed, or for an ``optim_wrapper`` that it does not take.
    """

    def __init__(self, *, zero_optimization: dict, **kwargs: Any) -> None:
        if deepspeed_utils is None:
            raise SetupError('the config trains by DeepSpeed, which is not installed: pip install "deepspeed<0.19"')
        plain: Any = ConfigDict(zero_optimization=zero_optimization, **kwargs).to_dict()  # for checkpoints
        super().__init__(**plain)

    def prepare(self, model: Any, *, dispatch_kwargs: dict | None = None, **kwargs: Any) -> Any:
        """Tell DeepSpeed the batch size, then divide; see ``mmengine._strategy``."""
        size = "train_micro_batch_size_per_gpu"
        self.config.setdefault(size, (dispatch_kwargs or {}).get(size, 1))
        return super().prepare(model, dispatch_kwargs=dispatch_kwargs, **kwargs)

    def build_optim_wrapper(self, optim_wrapper: Any, model: Any = None) -> BaseOptimWrapper:
        """Build the optimizer; DeepSpeed clips by itself."""
        options, max_norm = split_options(optim_wrapper)
        if max_norm is not None:
            self.config["gradient_clipping"] = max_norm
        return super().build_optim_wrapper(options, model)

    def _wrap_model(self, model: nn.Module) -> Any:
        for module in model.modules():
            if isinstance(module, Backbone):
                for unit in module.units():  # backward runs their blocks again
                    deepspeed_utils.set_z3_leaf_module(unit, True)  # type: ignore[union-attr]
        return super()._wrap_model(model)

    # -- checkpoints
    def save_checkpoint(
        self,
        filename: str,
        *,
        save_optimizer: bool = True,
        extra_ckpt: dict | None = None,
        callback: Callable[[dict], None] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the folder, or without the optimizer a file; see ``mmengine._strategy``."""
        extra = extra_ckpt or {}
        if callback:
            callback(extra)
        extra.setdefault("meta", {})["seed"] = self.seed
        if save_optimizer:
            super().save_checkpoint(filename, extra_ckpt=extra, **kwargs)
            extra = {**extra, "optimizer": dict(processes=get_world_size())}
            filename = str(Path(filename, WEIGHTS))
        model: Any = self.model.module
        weights = {name: value.cpu() for name, value in gathered(model) if is_main_process()}
        if is_main_process():
            save_checkpoint({**extra, "state_dict": weights}, filename)

    def resume(self, filename: str, *, callback: Callable[[dict], None] | None = None, **kwargs: Any) -> dict:
        """Take this process's part of a folder."""
        checkpoint = super().resume(filename, **kwargs)
        if callback:
            callback(checkpoint)
        return checkpoint

    def load_checkpoint(self, filename: str, *, callback: Callable[[dict], None] | None = None, **kwargs: Any) -> dict:
        """Take the weights of any other checkpoint."""
        self.logger.info(f"Load checkpoint from {filename}")
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location="cpu")
        if callback:
            callback(checkpoint)
        weights = checkpoint.get("state_dict", checkpoint)
        plain = {name.removeprefix("module."): value for name, value in weights.items()}
        engine: Any = self.model
        engine.load_module_state_dict({"module": plain}, strict=False, fetch_z3_params=True)
        engine.optimizer.refresh_fp32_params()
        clamp_shortcuts(engine.module)
        return checkpoint


@torch.no_grad()
def clamp_shortcuts(model: nn.Module) -> None:
    """Moves shortcut scales away from zero where DeepSpeed keeps them; a column in its forward has but a copy."""
    alphas: list[Any] = [alpha for module in model.modules() if isinstance(module, Column) for alpha in module.alphas]
    for alpha in alphas:
        if not hasattr(alpha, "ds_tensor"):  # stage 2
            fragment = getattr(alpha, "_hp_mapping", None)  # of the optimizer's copy, in some process
            parts = [alpha.data] + ([fragment.get_hp_fragment()] if fragment else [])
        else:
            parts = [alpha.data, alpha.ds_tensor.data]  # one of them may be empty
            if (part := deepspeed_utils.safe_get_local_fp32_param(alpha)) is not None:  # type: ignore[union-attr]
                deepspeed_utils.safe_set_local_fp32_param(alpha, clamped(part))  # type: ignore[union-attr]
        for part in parts:
            part.copy_(clamped(part))


def split_options(optim_wrapper: dict) -> tuple[dict, float | None]:
    """The settings of the optimizer, and the norm that DeepSpeed clips to.

    Args:
        optim_wrapper: Of a config.

    Raises:
        SetupError: for settings that DeepSpeed does not take.
    """
    if type_name(optim_wrapper) == "AmpOptimWrapper":
        raise SetupError(
            "optim_wrapper.type is AmpOptimWrapper; mixed precision is trained by --shard, float32 by DeepSpeed, "
            "with --cfg-options optim_wrapper.type=OptimWrapper"
        )
    options = {**optim_wrapper, "type": "ZeroOptimWrapper"}
    for key in ("loss_scale", "dtype"):  # of mixed precision
        options.pop(key, None)
    clip = {"norm_type": 2, **(options.pop("clip_grad", None) or {})}
    counts = options.pop("accumulative_counts", 1)
    if counts > 1:
        raise SetupError(
            f"optim_wrapper.accumulative_counts is {counts}, and DeepSpeed's checkpoints lack gradients that wait; "
            "set it to 1, or train by --shard"
        )
    if unknown := options.keys() - OPTIONS - {SCOPE}:
        raise SetupError(f"optim_wrapper has {sorted(unknown)}; with DeepSpeed it has {sorted(OPTIONS)}, and clip_grad")
    if clip.keys() - {"max_norm", "norm_type"} or clip["norm_type"] != 2:
        raise SetupError(f"clip_grad is {clip}; DeepSpeed takes max_norm, of the norm_type 2")
    return options, clip.get("max_norm")


def gathered(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and whole weights in every process, gathered one by one.

    DeepSpeed's own gathering, which lets the weights be changed, left some of them broken on gloo.
    """
    for name, value in model.state_dict(keep_vars=True).items():
        with GatheredParameters(value):  # type: ignore[misc]
            yield name, value.detach().clone()


def divides(cfg: Config) -> bool:
    """Whether a config trains by ``ZeroStrategy``."""
    return type_name(cfg.get("strategy") or {}) == "ZeroStrategy"
