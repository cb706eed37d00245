"""Train a detector, segmentor or classifier.

Examples:
    densebackbones train densebackbones::revcol_maskrcnn_coco.py --data-root data/coco
    densebackbones train densebackbones::revcol_maskrcnn_finetune.py --data-root FOLDER --classes auto
    densebackbones train CONFIG --resume

Everything that can be checked (config, options, data, weights, checkpoint) is checked before the first iteration. The
data are examined as by densebackbones check-data.

Labels of your own need no other config: --classes auto reads the classes from the folder, and data sets, metrics and
heads follow. The layout is found by looking: COCO's files, Pascal VOC, YOLO, index masks, a folder for each class.
--boxes-only removes the mask branch of a config for objects without masks.
"""

import argparse
import logging
import os
import re
import time

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from backbones.cli import _runs
from backbones.cli._checkpoints import (
    check_fits,
    check_heads,
    check_optimizer,
    check_resumable,
    choose_resume,
    choose_start,
    find_last_checkpoint,
    read_checkpoint,
)
from backbones.datasets.check import check_data
from backbones.engine.interruptions import save_stopped
from backbones.engine.resumable import make_resumable
from backbones.engine.sharded import prepare_division, shard
from backbones.engine.zero import divides
from backbones.errors import BadLossError, BrokenImagesError, NotSavedError, SetupError
from backbones.usage import UsageError, note

WORKER_ENDED = re.compile(r"DataLoader worker \(.*\) (is killed|exited)")  # PyTorch, in any line of the main process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    _runs.add_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision; needs an accelerator")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same losses, bit for bit, in every run of a seed (randomness.seed, or else 0) on this machine",
    )
    parser.add_argument(
        "--shard",
        action="store_true",
        help="divide parameters, gradients and optimizer over the processes, for a model that one GPU does not hold",
    )
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="continue from this checkpoint, or without PATH from the latest one of the work dir; the loss curve is "
        "that of an uninterrupted run",
    )
    parser.add_argument(
        "--reset-head",
        action="store_true",
        help="start from load_from, or a classifier's init_cfg, with another number of classes: weights of the heads "
        "whose shapes differ are initialised; --classes does it, too",
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        metavar="HH:MM",
        help="after this time save the state and end with status 0, as at SIGTERM and SIGUSR1; --resume goes on",
    )
    parser.add_argument(
        "--on-nan",
        choices=["stop", "skip"],
        default="stop",
        help="at a loss that is NaN or infinite stop (default), or leave the batch out, up to 9 in a row",
    )


def seconds(text: str) -> int:
    """``90:30`` -> 325800, hours and minutes in seconds."""
    if not re.fullmatch(r"\d+:[0-5]\d", text):
        raise argparse.ArgumentTypeError(f"{text} is no time HH:MM, as 23:30 for 23 hours and 30 minutes")
    hours, minutes = map(int, text.split(":"))
    return 60 * (60 * hours + minutes)


def main(args: argparse.Namespace) -> None:
    """Check, then train."""
    begun = time.monotonic()
    logging.raiseExceptions = False  # a full disk ends in the error of a checkpoint, not in one for each line
    cfg = _runs.load_config(args)
    _runs.check_settings(cfg, args.config, ("train_dataloader", "model", "optim_wrapper", "train_cfg"))
    _runs.check_pretrained(cfg)
    faults = check_data(cfg, ("train", "val"))
    set_amp(cfg, args.amp)
    if args.deterministic:
        set_deterministic(cfg)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)
    if args.shard:
        set_shard(cfg)
    elif divides(cfg):
        set_zero(cfg, args.on_nan)

    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun, after a process died
    path = choose_resume(cfg, "auto" if restarted else args.resume)
    start = choose_start(cfg, path is not None, args.reset_head, other_classes=bool(args.classes))
    checkpoint = read_checkpoint(path, for_runner=True) if path else None
    cfg.resume = checkpoint is not None
    if path and checkpoint:
        check_resumable(checkpoint, path)
        cfg.load_from = path
        # the runner reads the seed of the checkpoint only after the data loaders have a new one
        cfg.randomness = dict(cfg.get("randomness") or {}, seed=checkpoint["meta"]["seed"])
    make_resumable(cfg)
    for hook in cfg.custom_hooks:
        if hook.type == "StopHook":
            hook.time_limit = args.time_limit and args.time_limit - (time.monotonic() - begun)
        elif hook.type == "BadLossHook":
            hook.on_nan = args.on_nan
    runner = _runs.build_runner(cfg)
    check_processes(cfg, runner.model)
    for fault in faults:
        runner.logger.info(f"data: {fault}")
    if path and checkpoint:
        check_fits(runner.model, checkpoint, path)
        check_optimizer(runner, checkpoint, path)
        del checkpoint
    if start:
        check_heads(runner, read_checkpoint(start, for_runner=True), start, args.reset_head or bool(args.classes))
    started = Started()
    runner.register_hook(started)
    try:
        runner.train()
        _runs.leave()
    except SystemExit:  # all processes stopped
        _runs.leave()
        raise
    except SetupError as error:  # raised before the first iteration
        raise UsageError(error) from error
    except BrokenImagesError as error:
        reason = str(error).strip().rpartition(f"{BrokenImagesError.__name__}: ")[2]  # without a worker's traceback
        path = save_stopped(runner)
        raise UsageError(f"{reason}. Mend or remove them; the state is saved as {path}, --resume goes on") from error
    except BadLossError as error:
        raise UsageError(
            f"{error}. The weights were not updated by it; --on-nan skip leaves such batches out, "
            "--resume goes on from the last checkpoint"
        ) from error
    except Exception as error:
        if args.deterministic and "deterministic" in str(error):
            raise UsageError(f"--deterministic: {error}") from error  # PyTorch names the operator
        if not started.yes:
            raise UsageError(f"the training cannot start: {_runs.reason(error)}") from error
        reason = str(error).strip().rpartition("\n")[2]  # without a worker's traceback
        if WORKER_ENDED.match(reason):
            reason = (
                f"{reason.rstrip(' .')}. Most often the memory of the machine was used up; fewer workers take less: "
                "--cfg-options train_dataloader.num_workers=1 val_dataloader.num_workers=1"
            )
        elif not isinstance(error, (NotSavedError, OSError)):  # OSError: a full disk at a log file, data that are gone
            raise
        last = find_last_checkpoint(cfg.work_dir) or "none yet"
        raise UsageError(f"{reason}. The last checkpoint, {last}, is whole; --resume goes on from it") from error


def check_processes(cfg: Config, model: nn.Module) -> None:
    """Refuse what PyTorch cannot do with several processes: SyncBN without GPUs, a static graph that accumulates."""
    counts = cfg.optim_wrapper.get("accumulative_counts", 1)
    if (cfg.get("model_wrapper_cfg") or {}).get("static_graph") and counts > 1:
        raise UsageError(
            "model_wrapper_cfg.static_graph sums the gradients of the first iteration, and with "
            f"optim_wrapper.accumulative_counts={counts} they wait for iteration {counts}; leave one of the two out"
        )
    synchronized = cfg.get("sync_bn") or any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if synchronized and cfg.launcher != "none" and get_device() == "cpu":
        raise UsageError(
            "SyncBN takes the statistics of all processes on GPUs, and there is none; each process takes its own "
            "without sync_bn, and with BN for the SyncBN of a norm_cfg"
        )


class Started(Hook):
    """Knows whether everything was built: from then on, an error is none of the settings."""

    yes = False

    def before_train(self, runner: Runner) -> None:
        """See ``mmengine.hooks.Hook``."""
        self.yes = True


def set_amp(cfg: Config, wanted: bool) -> None:
    """Turn mixed precision on if wanted, and off on a CPU."""
    on_cpu = get_device() == "cpu"
    if wanted and on_cpu:
        raise UsageError("--amp needs a GPU: mmengine's AmpOptimWrapper does not run on a CPU; leave --amp out")
    wrapper = cfg.optim_wrapper
    if wanted:
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    elif on_cpu and wrapper.get("type") == "AmpOptimWrapper":
        note("the config trains in mixed precision, which needs a GPU; training in float32 on this CPU")
        wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)


def set_deterministic(cfg: Config) -> None:
    """Choose the algorithms that give the same bits every time, and a seed if the config has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrices are multiplied
    randomness = cfg.get("randomness") or {}
    seed = randomness.get("seed")
    cfg.randomness = {**randomness, "deterministic": True, "seed": 0 if seed is None else seed}
    cfg.env_cfg = {**(cfg.get("env_cfg") or {}), "cudnn_benchmark": False}


def set_shard(cfg: Config) -> None:
    """Divide the training over the processes."""
    try:
        shard(cfg)
    except SetupError as error:
        raise UsageError(f"--shard: {error}") from error


def set_zero(cfg: Config, on_nan: str) -> None:
    """Check and complete a config that divides the training by DeepSpeed."""
    if on_nan == "skip":
        raise UsageError("--on-nan skip: DeepSpeed cannot leave a batch out; use --on-nan stop, or train by --shard")
    try:
        prepare_division(cfg)
    except SetupError as error:
        raise UsageError(error) from error


def set_auto_scale_lr(cfg: Config) -> None:
    """Enable the config's linear scaling of the learning rate."""
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UsageError(
            "--auto-scale-lr: the config does not give the batch size of its learning rate; "
            "add --cfg-options auto_scale_lr.base_batch_size=N"
        )
    cfg.auto_scale_lr.enable = True
