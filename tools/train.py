#!/usr/bin/env python
"""Train a model: ``python tools/train.py CONFIG``. Works for mmdet, mmseg and mmpretrain configs."""

import argparse
from pathlib import Path
from typing import Any

from _cli import (
    build_runner,
    check_fits,
    check_pretrained,
    load_config,
    make_parser,
    plain_names,
    read_checkpoint,
    takes_published_weights,
)
from _data import check_data
from _usage import UsageError, run, say
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner

from backbones.engine.resumable import make_resumable
from backbones.errors import SetupError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("Train a model.")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision; needs an accelerator")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="continue from this checkpoint, or without PATH from the work dir's last one; the loss curve is the one "
        "the interrupted run would have had",
    )
    parser.add_argument(
        "--reset-head",
        action="store_true",
        help="start from load_from, or a classifier's init_cfg, although the head there has another number of classes: "
        "what differs in shape is initialised anew",
    )
    return parser.parse_args(argv)


def set_amp(cfg: Config, wanted: bool) -> None:
    """Turn mixed precision on if wanted, and off where there is nothing to run it on."""
    on_cpu = get_device() == "cpu"
    if wanted and on_cpu:
        raise UsageError("--amp needs a GPU: mmengine's AmpOptimWrapper does not run on a CPU; leave --amp out")
    wrapper = cfg.optim_wrapper
    if wanted:
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    elif on_cpu and wrapper.get("type") == "AmpOptimWrapper":
        say("the config trains in mixed precision, which needs a GPU; training in float32 on this CPU")
        wrapper.type = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)


def set_auto_scale_lr(cfg: Config) -> None:
    """Enable the config's linear scaling of the learning rate."""
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UsageError(
            "--auto-scale-lr: the config does not say which batch size its learning rate is for; "
            "add --cfg-options auto_scale_lr.base_batch_size=N"
        )
    cfg.auto_scale_lr.enable = True


def find_last_checkpoint(work_dir: str) -> str | None:
    """The checkpoint that ``--resume`` without a path continues from, or None in a work dir without any."""
    marker = Path(work_dir, "last_checkpoint")  # written by mmengine after a checkpoint is complete
    if marker.is_file():
        last = Path(marker.read_text().strip())
        if last.is_file():
            return str(last)
        if Path(work_dir, last.name).is_file():  # the work dir was moved
            return str(Path(work_dir, last.name))
        raise UsageError(f"{marker} names {last}, which is not there; name another checkpoint: --resume PATH")
    if any(Path(work_dir).glob("*.pth")):
        raise UsageError(f"{work_dir} does not say which of its checkpoints is the last one; name it: --resume PATH")
    return None


def choose_checkpoint(cfg: Config, resume: str | None) -> str | None:
    """The checkpoint to resume from, or None to start anew; never starts anew over an earlier run."""
    if resume is None and cfg.get("resume"):  # the config's own way of asking
        resume = cfg.get("load_from") or "auto"
    if resume == "auto":
        checkpoint = find_last_checkpoint(cfg.work_dir)
        if checkpoint is None:
            say(f"{cfg.work_dir} holds no checkpoint yet; training starts from the beginning")
        return checkpoint
    if resume is None and (old := sorted(Path(cfg.work_dir).glob("*.pth"))):
        raise UsageError(
            f"{cfg.work_dir} already holds a run ({old[-1].name}); "
            "continue it with --resume, or choose another --work-dir"
        )
    return resume


def check_resumable(checkpoint: dict, path: str) -> None:
    """Refuse a file with weights only."""
    absent = [key for key in ("meta", "state_dict", "optimizer", "message_hub") if key not in checkpoint]
    absent += [f"meta.{key}" for key in ("epoch", "iter", "seed") if key not in checkpoint.get("meta", {})]
    if absent:
        raise UsageError(
            f"{path} is not a checkpoint of a training run (it has no {', '.join(absent)}), so it cannot be resumed; "
            f"to start from its weights: --cfg-options load_from={path}"
        )


def check_optimizer(runner: Runner, checkpoint: dict, path: str) -> None:
    """Refuse an optimiser state that belongs to other parameter groups."""
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)  # type: ignore[arg-type]
    have, want = checkpoint["optimizer"], runner.optim_wrapper.state_dict()
    if "param_groups" in want and "param_groups" in have:  # several optimisers have one level more
        sizes = [[len(group["params"]) for group in state["param_groups"]] for state in (have, want)]
        if sizes[0] != sizes[1]:
            raise UsageError(
                f"the optimiser state in {path} has {len(sizes[0])} groups of {sum(sizes[0])} parameters, the config's "
                f"{len(sizes[1])} of {sum(sizes[1])}; resume with the optim_wrapper and model it was trained with"
            )


# ----------------------------------------------------------------------------------------- weights of other classes
class DropWeights(Hook):
    """Takes weights out of ``load_from`` before the model, or its moving average, reads them."""

    priority = "VERY_HIGH"

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint.pop("ema_state_dict", None)  # a second set; state_dict already holds the averaged one
        weights = checkpoint.get("state_dict", checkpoint)
        for key in [key for key in weights if key.removeprefix("module.") in self.names]:
            del weights[key]


def check_head(runner: Runner, checkpoint: dict[str, Any], path: str, reset: bool) -> None:
    """Refuse a classification head of another shape in ``load_from``, or drop it; mmengine would only print it.

    Raises:
        UsageError: naming the shapes and ``--reset-head``.
    """
    have, want = plain_names(checkpoint.get("state_dict", checkpoint)), plain_names(runner.model.state_dict())
    other = {
        key: f"{key} (file {tuple(have[key].shape)}, model {tuple(value.shape)})"
        for key, value in want.items()
        if key.startswith("head.") and key in have and have[key].shape != value.shape
    }
    if not other:
        if reset:
            say(f"--reset-head: the head in {path} has the shapes of the config's, so its weights are kept")
        return
    listed = ", ".join(other.values())
    if not reset:
        raise UsageError(
            f"the head in {path} has another number of classes: {listed}. Add --reset-head to take over "
            "everything else and start these anew"
        )
    say(f"--reset-head: not taken from {path}, but initialised anew: {listed}")
    runner.register_hook(DropWeights(set(other)))


def choose_start(cfg: Config, resumed: bool, reset_head: bool) -> str | None:
    """The file of weights that the runner is to start from, or None; a classifier of this package reads it itself.

    By its ``init_cfg`` it takes published files, and ones of other image sizes or classes.

    Raises:
        UsageError: for ``--reset-head`` without a file to start from.
    """
    if resumed and not reset_head:
        return None
    start, ours = cfg.get("load_from"), takes_published_weights(cfg)
    if reset_head and (resumed or "head" not in cfg.model or not (start or (ours and cfg.model.get("init_cfg")))):
        raise UsageError(
            "--reset-head starts a classifier from a checkpoint of other classes: name it by --cfg-options "
            "load_from=PATH, without --resume"
        )
    if start and ours:
        cfg.model.init_cfg = dict(type="Pretrained", checkpoint=start)
        if (cfg.model.backbone.get("init_cfg") or {}).get("type") == "Pretrained":
            cfg.model.backbone.init_cfg = None  # the file has the backbone's weights, too
        cfg.load_from = start = None
    if reset_head and not start:
        cfg.model.init_cfg = {**cfg.model.init_cfg, "reset_head": True}
    return start


def main(args: argparse.Namespace) -> None:
    """Check everything that can be checked, then train."""
    cfg = load_config(args)
    if "train_dataloader" not in cfg:
        raise UsageError(f"{args.config} has no train_dataloader; it is not a config for training")
    check_pretrained(cfg)
    check_data(cfg, ("train", "val"))
    set_amp(cfg, args.amp)
    if args.auto_scale_lr:
        set_auto_scale_lr(cfg)

    path = choose_checkpoint(cfg, args.resume)
    start = choose_start(cfg, path is not None, args.reset_head)
    checkpoint = read_checkpoint(path) if path else None
    cfg.resume = checkpoint is not None
    if path and checkpoint:
        check_resumable(checkpoint, path)
        cfg.load_from = path
        # the runner learns the old seed only after the data loaders have been given a new one
        cfg.randomness = dict(cfg.get("randomness") or {}, seed=checkpoint["meta"]["seed"])
    make_resumable(cfg)
    runner = build_runner(cfg)
    if path and checkpoint:
        check_fits(runner.model, checkpoint, path)
        check_optimizer(runner, checkpoint, path)
        del checkpoint
    if start:
        check_head(runner, read_checkpoint(start), start, args.reset_head)
    try:
        runner.train()
    except SetupError as error:  # what the model was given does not fit; nothing has been trained yet
        raise UsageError(error) from error


if __name__ == "__main__":
    run(main, parse_args())
