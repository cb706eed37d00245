"""Trainings whose parameters, gradients and optimizer are divided over the processes, by PyTorch's FSDP.

Each process keeps a part of every tensor. The parameters of a unit (``Backbone.units``: a level of RevCol, a block of a
transformer) are gathered where it runs, forward and backward; all others are gathered during a whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import MMFullyShardedDataParallel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS, STRATEGIES
from torch import nn
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, FullyShardedDataParallel
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy

from backbones.base import Backbone
from backbones.engine.safe_checkpoints import type_name
from backbones.errors import SetupError

WAITING = "waiting_gradient"  # entry of a parameter's optimizer state in a checkpoint
CLIP_OPTIONS = {"max_norm", "norm_type"}  # that FSDP knows


def wrap_policy(model: nn.Module) -> Callable[..., bool]:
    """FSDP's ``auto_wrap_policy`` for the units of a model's backbones."""
    units = {unit for module in model.modules() if isinstance(module, Backbone) for unit in module.units()}
    return partial(lambda_auto_wrap_policy, lambda_fn=units.__contains__)


@MODEL_WRAPPERS.register_module()
class ShardedModel(MMFullyShardedDataParallel):
    """mmengine's wrapper, which divides gradients in every iteration.

    Those that wait for their update would otherwise be whole in each process, which takes the memory that was saved.
    """

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients accumulate in parts."""
        yield


@STRATEGIES.register_module()
class ShardedStrategy(FSDPStrategy):
    """mmengine's strategy, with the units of this package's backbones.

    It computes what ``DDPStrategy`` does: the optimizer's groups come from the whole parameters, since parts have other
    names and one dimension; gradients are clipped by their norm over all processes. A checkpoint is one file with whole
    tensors, as of any other training, so that every number of processes and every reader takes it. It also has the loss
    scale, and the gradients that wait for their update, as the entry ``waiting_gradient`` of the optimizer's state.

    Args:
        kwargs: As mmengine's.

    Raises:
        SetupError: for an optimizer that FSDP does not take.
    """

    def __init__(self, **kwargs: Any) -> None:
        options = dict(rank0_only=True, offload_to_cpu=get_device() != "cpu")  # on a CPU, FSDP would copy nothing
        whole = dict(
            state_dict_type="FULL_STATE_DICT",
            state_dict_config=FullStateDictConfig(**options),
            optim_state_dict_config=FullOptimStateDictConfig(**options),
        )
        super().__init__(state_dict_cfg=whole, **kwargs)

    def prepare(self, model: Any, *, optim_wrapper: Any = None, **kwargs: Any) -> Any:
        """Build the optimizer for the whole model, then divide both; see ``mmengine._strategy``."""
        if isinstance(optim_wrapper, dict):
            model = self.build_model(model)
            optim_wrapper = build_optim_wrapper(model, optim_wrapper)
        return super().prepare(model, optim_wrapper=optim_wrapper, **kwargs)

    def _wrap_model(self, model: nn.Module) -> Any:
        model = self.convert_model(model)
        on_cpu = get_device() == "cpu"
        self.model_wrapper = dict(
            type="ShardedModel",
            auto_wrap_policy=wrap_policy(model),
            device_id=torch.device("cpu") if on_cpu else torch.cuda.current_device(),
        )
        return super()._wrap_model(model)

    def build_optim_wrapper(self, optim_wrapper: Any, model: Any = None) -> OptimWrapper:
        """Give the optimizer of the whole model this process's parts.

        Args:
            optim_wrapper: Built for the whole model.
            model: Divided.
        """
        if not isinstance(optim_wrapper, OptimWrapper):
            raise SetupError(f"a divided training takes one optimizer, not a {type(optim_wrapper).__name__}")
        parts = {name.replace("_fsdp_wrapped_module.", ""): p for name, p in model.named_parameters()}
        for group in optim_wrapper.optimizer.param_groups:
            group["params"] = [parts[self.id_to_name[id(p)]] for p in group["params"]]
        clip = optim_wrapper.clip_grad_kwargs or {}
        if "max_norm" in clip:
            if unknown := clip.keys() - CLIP_OPTIONS:
                raise SetupError(f"clip_grad has {sorted(unknown)}; a divided training knows {sorted(CLIP_OPTIONS)}")
            optim_wrapper.clip_func = lambda parameters, **options: model.clip_grad_norm_(**options)  # type: ignore
        return optim_wrapper

    # -- checkpoints
    def model_state_dict(self) -> dict:
        """The whole weights, in the first process, without FSDP's notes on them, which would need its code to load."""
        return {name: value.detach() for name, value in super().model_state_dict().items()}

    def optim_state_dict(self) -> dict:
        """The state for the whole parameters, in the first process; see ``mmengine._strategy``."""
        optimizer = self.optim_wrapper.optimizer
        waiting = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for p in waiting:
            optimizer.state[p][WAITING] = p.grad
        whole = FullyShardedDataParallel.optim_state_dict(self.model, optimizer)
        for p in waiting:
            del optimizer.state[p][WAITING]
        return {**self.optim_wrapper.state_dict(), **whole}

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Take this process's parts of such a state."""
        optimizer = self.optim_wrapper.optimizer
        parts = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict({**state_dict, **parts})
        for p, state in optimizer.state.items():
            p.grad = state.pop(WAITING, None)

    def load_checkpoint(self, filename: str, **kwargs: Any) -> dict:
        """Read a checkpoint into the memory of the host, as a GPU may not hold the whole."""
        return super().load_checkpoint(filename, **{**kwargs, "map_location": "cpu"})

    def load_model_state_dict(self, state_dict: Mapping[str, Any], **kwargs: Any) -> None:
        """Take this process's parts of the weights, and name those that are missing or unknown."""
        plain = {name.removeprefix("module."): value for name, value in state_dict.items()}
        keys = self.model.load_state_dict(plain, strict=False)
        if keys.missing_keys or keys.unexpected_keys:
            self.logger.warning(f"not in the checkpoint: {keys.missing_keys}; not in the model: {keys.unexpected_keys}")


def shard(cfg: Config) -> None:
    """Have a training divided over its processes, in place.

    Args:
        cfg: The config, with its launcher.

    Raises:
        SetupError: as ``prepare_division``.
    """
    prepare_division(cfg, " --shard")
    cfg.runner_type = "FlexibleRunner"
    cfg.strategy = dict(type="ShardedStrategy", sync_bn=cfg.get("sync_bn"))
    if type_name(cfg.optim_wrapper) == "AmpOptimWrapper":
        cfg.optim_wrapper.use_fsdp = True


def prepare_division(cfg: Config, option: str = "") -> None:
    """Check and complete the config of a training that is divided over its processes, in place.

    Args:
        cfg: The config, with its launcher.
        option: That divides, for messages.

    Raises:
        SetupError: without a launcher, or with a moving average of the weights.
    """
    if cfg.get("launcher", "none") == "none":
        raise SetupError(
            "the model is divided over processes, and no launcher starts them: tools/dist_train.sh CONFIG GPUS" + option
        )
    if any("EMAHook" in type_name(hook) for hook in cfg.get("custom_hooks") or []):
        raise SetupError(
            "EMAHook averages whole weights, and no process has them; train without: --cfg-options custom_hooks=[]"
        )
    cfg.setdefault("env_cfg", dict(dist_cfg=dict(backend="nccl")))
    if cfg.get("val_dataloader"):
        if type_name(sampler := cfg.val_dataloader.sampler) != "DefaultSampler":
            raise SetupError(
                f"val_dataloader.sampler is a {type_name(sampler)}; it must be a DefaultSampler, which can have every "
                "process evaluate equally often"
            )
        sampler.round_up = True  # metrics drop the surplus
