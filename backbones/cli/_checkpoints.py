"""Checkpoints of ``train``, ``test`` and ``export-weights``: reading, resuming, and checks that they fit a model."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from backbones.checkpoints import CheckpointError, find_weights, load_pretrained
from backbones.checkpoints import read_checkpoint as weights_of
from backbones.checks import is_whole
from backbones.cli._runs import takes_published_weights
from backbones.engine.safe_checkpoints import WEIGHTS, check
from backbones.engine.sharded import ShardedStrategy
from backbones.engine.zero import ZeroStrategy
from backbones.errors import NotSavedError
from backbones.usage import UsageError, note

# What mmengine and DeepSpeed pickle into the checkpoints of a training: classes, some of their methods, and tensors
# with attributes. They run no code of the file: whatever else a pickle calls is named, too.
OF_TRAININGS = re.compile(
    r"mmengine\.logging\.history_buffer\.HistoryBuffer(\.[a-z]\w*)?"
    r"|deepspeed\.(runtime\.fp16\.loss_scaler\.LossScaler|runtime\.zero\.config\.ZeroStageEnum"
    r"|utils\.tensor_fragment\.fragment_address)"
    r"|torch\.(Tensor|_tensor\._rebuild_from_type_v2)"
)


def read_checkpoint(path: str, for_runner: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; no code of the file runs.

    Args:
        path: Of the file, or a URL; of a folder of DeepSpeed's, all but the optimizer's state is read.
        for_runner: Whether mmengine's runner will read it, too, which runs code: objects are then refused, other than
            those of a training.

    Raises:
        UsageError: for a missing or broken file.
    """
    file = file_of(path)
    if ":" not in path and not os.path.isfile(os.path.expanduser(file)):
        raise UsageError(
            f"there is no checkpoint {file}; training writes them into its work dir as epoch_N.pth or iter_N.pth"
        )
    try:
        if "://" in path and not path.startswith(("http", "hf:")):  # mmengine's other places
            checkpoint, inert = CheckpointLoader.load_checkpoint(path, map_location="cpu"), []
        else:
            checkpoint, inert = weights_of(file)
        if for_runner and file != path:
            inert += [name for part in sorted(Path(path).glob("*.pt")) for name in weights_of(part)[1]]
    except Exception as error:  # broken bytes may raise anything
        raise UsageError(f"{path} cannot be read as a checkpoint ({error}); is the file complete?") from error
    if for_runner and (foreign := [name for name in inert if not OF_TRAININGS.fullmatch(name)]):
        raise UsageError(
            f"{path} holds objects whose code would run when it is loaded: {', '.join(foreign[:4])}. Load the weights "
            "alone: densebackbones export-weights, or init_cfg=dict(type='Pretrained', checkpoint=...) of the backbone"
        )
    if not isinstance(checkpoint, dict):
        raise UsageError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def file_of(path: str) -> str:
    """The file with the weights of a checkpoint, which DeepSpeed writes as a folder."""
    return os.path.join(path, WEIGHTS) if os.path.isdir(os.path.expanduser(path)) else path


def plain_names(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights without the prefix of distributed training."""
    return {key.removeprefix("module."): value for key, value in weights.items()}


def trained_weights(checkpoint: dict[str, Any], path: str) -> dict[str, Any]:
    """The weights in a checkpoint of a training, without the prefix of distributed training.

    Raises:
        UsageError: for entries that are no tensors.
    """
    weights = checkpoint.get("state_dict", checkpoint)
    entries = weights.items() if isinstance(weights, dict) else [("state_dict", weights)]
    if wrong := [key for key, value in entries if not isinstance(key, str) or not isinstance(value, Tensor)]:
        raise UsageError(
            f"{path} is not a checkpoint of a training run: its entry {wrong[0]!r} is no tensor with a name"
        )
    return plain_names(weights)


def check_fits(model: nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Refuse the weights of another model; mmengine's runner would only warn and keep random ones.

    Raises:
        UsageError: naming the missing and unexpected keys and those of another shape.
    """
    have, want = trained_weights(checkpoint, path), plain_names(model.state_dict())
    wrong = [f"{key} (not in the file)" for key in want if key not in have]
    wrong += [f"{key} (not in the model)" for key in have if key not in want]
    wrong += [_shapes(key, have, want) for key in want if key in have and have[key].shape != want[key].shape]
    if wrong:
        more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UsageError(
            f"{path} belongs to another model than the config's: {', '.join(wrong[:4])}{more}. "
            "Use the config of its training; the work dir has a copy"
        )


def _shapes(key: str, have: dict[str, Any], want: dict[str, Any]) -> str:
    return f"{key} (file {tuple(have[key].shape)}, model {tuple(want[key].shape)})"


def is_published(path: str) -> bool:
    """Whether a file has the checkpoint keys of the papers' authors, not those of a training with mmengine."""
    try:
        _, weights = find_weights(weights_of(file_of(path))[0])
    except (CheckpointError, FileNotFoundError) as error:
        raise UsageError(error) from error
    return not any(name.removeprefix("module.").startswith("backbone.") for name in weights)


def load_published(model: Any, path: str) -> None:
    """Load a published file; unlike in training, every key must fit."""
    try:
        report = load_pretrained(model, path)
    except CheckpointError as error:
        raise UsageError(error) from error
    if not report.complete:
        raise UsageError(f"the file belongs to another model than the config's, or to another head:\n{report}")


def load_weights(model: nn.Module, cfg: Config, path: str) -> dict[str, Any]:
    """Load a checkpoint of a training, or for a classifier of this package a published file; every key must fit.

    Returns:
        The checkpoint's ``meta``; empty for a published file.

    Raises:
        UsageError: for a missing or broken file, or one of another model.
    """
    if takes_published_weights(cfg) and is_published(path):
        load_published(model, path)
        return {}
    checkpoint = read_checkpoint(path)
    load_trained(model, checkpoint, path)
    return checkpoint.get("meta") or {}


def load_trained(model: nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Load the content of a training's checkpoint, all of whose keys must fit.

    Raises:
        UsageError: for one of another model.
    """
    check_fits(model, checkpoint, path)
    model.load_state_dict(trained_weights(checkpoint, path))


def find_last_checkpoint(work_dir: str) -> str | None:
    """The latest whole checkpoint of a work dir, or None if it holds none.

    Raises:
        UsageError: if no file or none but weights and broken files are left.
    """
    marker = Path(work_dir, "last_checkpoint")  # written after a checkpoint is complete
    named = Path(marker.read_text().strip()) if marker.is_file() else Path()
    for path in (named, Path(work_dir, named.name)):  # the second: the work dir was moved
        with suppress(NotSavedError):
            if named.name and path.exists():
                check(path)
                return str(path)
    files = list(Path(work_dir).glob("*.pth"))
    if not files and not marker.is_file():
        return None
    reason = f"{marker} names {named}, which does not exist or is not whole" if named.name else f"{marker} is missing"
    steps = {}
    for file in files:
        with suppress(NotSavedError):
            if "optimizer" in (checkpoint := check(file)):
                steps[file] = checkpoint["meta"]["iter"]
    if not steps:
        raise UsageError(f"{reason}; name another checkpoint: --resume PATH")
    newest = max(steps, key=steps.__getitem__)
    note(f"{reason}; going on from {newest}, the latest whole checkpoint there")
    return str(newest)


def choose_resume(cfg: Config, resume: str | None) -> str | None:
    """The checkpoint to resume from, or None for a new run; a new run never overwrites an earlier one.

    Args:
        cfg: The config, with its work dir; its own ``resume`` counts, too.
        resume: A path, or ``auto`` for the latest checkpoint of the work dir.
    """
    if resume is None and cfg.get("resume"):
        resume = cfg.get("load_from") or "auto"
    if resume == "auto":
        checkpoint = find_last_checkpoint(cfg.work_dir)
        if checkpoint is None:
            note(f"{cfg.work_dir} holds no checkpoint yet; training starts from the beginning")
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
    meta = checkpoint.get("meta")
    counts = ("epoch", "iter", "seed")
    absent += [f"meta.{key}" for key in counts if not (isinstance(meta, dict) and is_whole(meta.get(key), 0))]
    if absent:
        raise UsageError(
            f"{path} is not a checkpoint of a training run (it has no {', '.join(absent)}), so it cannot be resumed; "
            f"to start from its weights: --cfg-options load_from={path}"
        )


def check_optimizer(runner: Runner, checkpoint: dict, path: str) -> None:
    """Refuse an optimizer state with other parameter groups, or divided over processes otherwise."""
    zero, parts = isinstance(getattr(runner, "strategy", None), ZeroStrategy), checkpoint["optimizer"].get("processes")
    if zero or parts:
        if (processes := get_world_size()) != parts or not zero:
            of = f"with DeepSpeed by {parts} processes" if parts else "without DeepSpeed"
            raise UsageError(
                f"{path} is of a training {of}, this one is {'with' if zero else 'without'} it by {processes}; go on "
                f"likewise, or start from its weights: --cfg-options load_from={file_of(path)}"
            )
        return  # DeepSpeed builds the optimizer
    runner.optim_wrapper = build_optim_wrapper(runner.model, runner.optim_wrapper)  # type: ignore[arg-type]
    have, want = checkpoint["optimizer"], runner.optim_wrapper.state_dict()
    divided = isinstance(getattr(runner, "strategy", None), ShardedStrategy)
    if any(isinstance(key, str) != divided for key in have.get("state", ())):
        raise UsageError(
            f"{path} is of a training {'without' if divided else 'with'} --shard; go on likewise, or start from its "
            f"weights: --cfg-options load_from={path}"
        )
    if "param_groups" in want and "param_groups" in have:  # several optimizers have one level more
        try:
            sizes = [[len(group["params"]) for group in state["param_groups"]] for state in (have, want)]
        except (KeyError, TypeError) as error:
            raise UsageError(f"the optimizer state in {path} is damaged; resume from an earlier checkpoint") from error
        if sizes[0] != sizes[1]:
            raise UsageError(
                f"the optimizer state in {path} has {len(sizes[0])} groups of {sum(sizes[0])} parameters, the config's "
                f"{len(sizes[1])} of {sum(sizes[1])}; resume with the optim_wrapper and model of its training"
            )


class DropWeights(Hook):
    """Removes weights from ``load_from`` before the model, or its moving average, loads them."""

    priority = "VERY_HIGH"

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint.pop("ema_state_dict", None)  # a second set; state_dict already holds the averaged one
        weights = checkpoint.get("state_dict", checkpoint)
        for key in [key for key in weights if key.removeprefix("module.") in self.names]:
            del weights[key]


def check_heads(runner: Runner, checkpoint: dict[str, Any], path: str, reset: bool) -> None:
    """Drop weights of other shapes outside the backbone in ``load_from``, as of other classes, and name them.

    For a classifier, whose one head is its result, ``reset`` is needed. A classifier of this package makes the same
    check while it reads a published file.

    Args:
        runner: The runner, with its model.
        checkpoint: Content of the file.
        path: Its name, for messages.
        reset: ``--reset-head``, or ``--classes``, which brings other classes.

    Raises:
        UsageError: for a classifier without ``reset``, naming the shapes.
    """
    have, want = trained_weights(checkpoint, path), plain_names(runner.model.state_dict())
    other = [
        key
        for key, value in want.items()
        if not key.startswith("backbone.") and key in have and have[key].shape != value.shape
    ]
    if not other:
        if reset:
            note(f"the heads in {path} have the shapes of the config's, so their weights are kept")
        return
    listed = ", ".join(_shapes(key, have, want) for key in other)
    if not reset and any(key.startswith("head.") for key in other):
        raise UsageError(
            f"{path} has heads of another number of classes: {listed}. Add --reset-head to load "
            "everything else and initialise these weights"
        )
    note(f"not loaded from {path}, but initialised: {listed}")
    runner.register_hook(DropWeights(set(other)))


def choose_start(cfg: Config, resumed: bool, reset_head: bool, other_classes: bool = False) -> str | None:
    """The checkpoint that the runner loads before training, or None.

    A classifier of this package loads it by its own ``init_cfg``, which accepts published files and files of other
    image sizes or classes.

    Args:
        cfg: The config, changed in place.
        resumed: Whether a run is continued.
        reset_head: ``--reset-head``.
        other_classes: Whether the config got other classes by ``--classes``, which resets heads of other shapes, too.

    Raises:
        UsageError: for ``--reset-head`` without a checkpoint to start from.
    """
    if resumed and not reset_head:
        return None
    start, ours = cfg.get("load_from"), takes_published_weights(cfg)
    if reset_head and (resumed or not (start or (ours and cfg.model.get("init_cfg")))):
        raise UsageError(
            "--reset-head starts from a checkpoint of other classes: name it by --cfg-options load_from=PATH, "
            "without --resume"
        )
    if start and ours:
        cfg.model.init_cfg = dict(type="Pretrained", checkpoint=start)
        if (cfg.model.backbone.get("init_cfg") or {}).get("type") == "Pretrained":
            cfg.model.backbone.init_cfg = None  # the file has the backbone's weights, too
        cfg.load_from = start = None
    if (reset_head or other_classes) and not start and ours and cfg.model.get("init_cfg"):
        cfg.model.init_cfg = {**cfg.model.init_cfg, "reset_head": True}
    return start
