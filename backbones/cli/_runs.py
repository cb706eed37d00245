"""The arguments, the config and the runner of ``train`` and ``test``."""

import argparse
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import FlexibleRunner, Runner
from torch import nn

import backbones.engine.resumable
import backbones.engine.sharded
import backbones.engine.zero  # noqa: F401  (registers classes that the config in a work dir names)
from backbones.cli import _own_data
from backbones.config.hosts import find_config
from backbones.config.lookup import check_kinds, model_settings, read_config, registered
from backbones.config.options import HELP as OPTIONS_HELP
from backbones.config.options import Options, merge_options
from backbones.config.write import delta
from backbones.datasets.move import set_data_root
from backbones.usage import UsageError

# Arguments of ``load_config``, for ``set_defaults`` of a verb that does not offer it all
DEFAULTS = dict(work_dir=None, data_root=None, classes=None, cfg_options={}, launcher="none", local_rank=0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both verbs."""
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (default: work_dirs/NAME_OF_CONFIG)")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    # torch.distributed.launch passes either spelling, depending on torch's version
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a config and change it."""
    parser.add_argument("config", help="config file, or densebackbones::FILE.py for one that the package ships")
    parser.add_argument(
        "--data-root",
        help="read every data set of the config from this folder of the same layout, with --classes of any layout",
    )
    _own_data.add_arguments(parser)
    parser.add_argument("--cfg-options", nargs="+", action=Options, default={}, metavar="KEY=VALUE", help=OPTIONS_HELP)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the arguments to it.

    Raises:
        UsageError: for an unknown config, a host that is not installed, or a wrong option.
    """
    path = find_config(args.config)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(path)
    cfg.launcher = args.launcher
    if args.classes:
        cfg.merge_from_dict(delta(cfg, _own_data.changes(cfg, args)))
    elif args.data_root:
        set_data_root(cfg, args.data_root)
    try:
        merge_options(cfg, args.cfg_options)
        check_kinds(cfg)
    except ValueError as error:
        raise UsageError(error) from error
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or os.path.join("work_dirs", path.stem)
    return cfg


def join_on_cpu(cfg: Config) -> None:
    """Let the processes of a machine without an accelerator work together; mmengine expects a GPU for each."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    if "strategy" not in cfg:
        find = cfg.get("find_unused_parameters", False)
        wrapper = dict(type="MMDistributedDataParallel", find_unused_parameters=find)
        cfg.model_wrapper_cfg = {**wrapper, **(cfg.get("model_wrapper_cfg") or {}), "device_ids": None}


def leave() -> None:
    """End the group of processes once all have come here; one that exits earlier can abort the others."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def build_runner(cfg: Config) -> Runner:
    """Build the runner and its model; errors of their classes become a ``UsageError``."""
    if cfg.get("launcher") == "pytorch" and get_device() == "cpu":
        join_on_cpu(cfg)
    try:
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)  # type: ignore[arg-type]
        if isinstance(runner, FlexibleRunner):  # would build its model when training starts
            runner.model = runner.strategy.build_model(runner.model)
        return runner  # type: ignore[return-value]
    except Exception as error:  # classes of the hosts raise anything
        raise UsageError(f"the model or the runner cannot be built: {reason(error)}") from error


def build_model(cfg: Config) -> nn.Module:
    """Build the model as a runner does, without loading the weights that training starts from.

    Raises:
        UsageError: if its settings are wrong.
    """
    try:
        return MODELS.build(model_settings(cfg))
    except Exception as error:  # classes of the hosts raise anything
        raise UsageError(f"the model cannot be built: {reason(error)}") from error


def find_device(name: str | None) -> torch.device:
    """A device by its name, by default the GPU if there is one.

    Raises:
        UsageError: for an unknown or absent device.
    """
    try:
        return torch.empty(1, device=name or get_device()).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).splitlines()[0]}") from error


def reason(error: Exception) -> str:
    """The message of an error; of one that was not written for users, with its kind."""
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"


def check_settings(cfg: Config, name: str, keys: tuple[str, ...]) -> None:
    """Refuse a config that lacks some of its dicts of settings."""
    if absent := [key for key in keys if not isinstance(cfg.get(key), dict)]:
        use = "training" if "optim_wrapper" in keys else "testing"
        raise UsageError(f"{name} has no {absent[0]}; it is not a config for {use}")
    if "type" not in cfg.model:
        raise UsageError(f"{name} has no model.type, the class of the model")


def check_pretrained(cfg: Config) -> None:
    """Refuse a config whose ``load_from`` or ``init_cfg`` names a missing file."""

    def checkpoints(node: Any, where: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict):
            if node.get("type") == "Pretrained":
                yield f"{where}.checkpoint", node.get("checkpoint")
            for key, value in node.items():
                yield from checkpoints(value, f"{where}.{key}")
        elif isinstance(node, (list, tuple)):
            for index, value in enumerate(node):
                yield from checkpoints(value, f"{where}.{index}")

    for where, path in [*checkpoints(cfg.model.to_dict(), "model"), ("load_from", cfg.get("load_from") or "")]:
        if not isinstance(path, str):
            raise UsageError(f"{where} is {path!r}; it must be a path or a URL")
        if path and ":" not in path and not os.path.isfile(os.path.expanduser(path)):
            raise UsageError(
                f"{where} names {path}, which does not exist; set another path or URL by --cfg-options, or {where}=None"
            )


def takes_published_weights(cfg: Config) -> bool:
    """Whether the config's model is a classifier of this package, which reads the files of the papers' authors."""
    return hasattr(registered(MODELS, cfg.model.type), "published_name")
