"""What tools/train.py and tools/test.py share: arguments, the config, and checks that come before any time is spent."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _data import set_data_root
from _options import HELP as OPTIONS_HELP
from _options import merge_options
from _registry import registered
from _usage import UsageError
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner

import backbones.engine.resumable  # noqa: F401  (the config copied into a work dir names its classes)


def make_parser(description: str) -> argparse.ArgumentParser:
    """The arguments both tools take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (default: work_dirs/NAME_OF_CONFIG)")
    parser.add_argument("--data-root", help="take every data set of the config from this folder of the same layout")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help=OPTIONS_HELP
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    # torch.distributed.launch passes one spelling or the other, depending on torch's version
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the shared arguments to it."""
    if not os.path.isfile(args.config):
        raise UsageError(f"there is no config file {args.config}; the project's own are in configs/")
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    try:
        cfg = Config.fromfile(args.config)
    except (FileNotFoundError, ImportError) as error:
        reason: BaseException = error
        while isinstance(reason.__context__, ImportError):  # mmengine lists sys.path instead of the missing module
            reason = reason.__context__
        raise UsageError(f"{args.config} cannot be read: {reason}") from error
    init_default_scope(cfg.get("default_scope", "mmengine"))
    cfg.launcher = args.launcher
    if args.data_root:
        set_data_root(cfg, args.data_root)
    try:
        merge_options(cfg, args.cfg_options)
    except ValueError as error:
        raise UsageError(error) from error
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or os.path.join("work_dirs", Path(args.config).stem)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner and with it the model; what a class says about wrong settings becomes a :class:`UsageError`."""
    try:
        return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)  # type: ignore[arg-type]
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"the model or the runner cannot be built: {error}") from error


# -------------------------------------------------------------------------------------------------------- checkpoints
def check_pretrained(cfg: Config) -> None:
    """Refuse a config whose ``load_from`` or ``init_cfg`` names a file that is not there."""

    def checkpoints(node: Any, where: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict):
            if node.get("type") == "Pretrained":
                yield f"{where}.checkpoint", node["checkpoint"]
            for key, value in node.items():
                yield from checkpoints(value, f"{where}.{key}")
        elif isinstance(node, (list, tuple)):
            for index, value in enumerate(node):
                yield from checkpoints(value, f"{where}.{index}")

    for where, path in [*checkpoints(cfg.model.to_dict(), "model"), ("load_from", cfg.get("load_from"))]:
        if path and ":" not in path and not os.path.isfile(os.path.expanduser(path)):
            raise UsageError(
                f"{where} names {path}, which is not there; give another path or URL by --cfg-options, or {where}=None"
            )


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint as the runner will, onto the CPU."""
    if ":" not in path and not os.path.isfile(os.path.expanduser(path)):
        raise UsageError(
            f"there is no checkpoint {path}; training writes them into its work dir as epoch_N.pth or iter_N.pth"
        )
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    except Exception as error:  # torch raises whatever the broken bytes lead to
        raise UsageError(f"{path} cannot be read as a checkpoint ({error}); is the file complete?") from error
    if not isinstance(checkpoint, dict):
        raise UsageError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def takes_published_weights(cfg: Config) -> bool:
    """Whether the model of a config reads files of the papers' authors: a classifier of this package."""
    return hasattr(registered(MODELS, cfg.model.type), "published_name")


def plain_names(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights without what distributed training puts before their names."""
    return {key.removeprefix("module."): value for key, value in weights.items()}


def check_fits(model: torch.nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Refuse weights of another model; the runner itself would only warn and go on with random ones.

    Raises:
        UsageError: naming what is missing, left over, or of another shape.
    """
    have, want = plain_names(checkpoint.get("state_dict", checkpoint)), plain_names(model.state_dict())
    wrong = [f"{key} (not in the file)" for key in want if key not in have]
    wrong += [f"{key} (not in the model)" for key in have if key not in want]
    wrong += [
        f"{key} (file {tuple(have[key].shape)}, model {tuple(want[key].shape)})"
        for key in want
        if key in have and have[key].shape != want[key].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UsageError(
            f"{path} was made by another model than the config's: {', '.join(wrong[:4])}{more}. "
            "Give the config it was trained with; its work dir has a copy"
        )
