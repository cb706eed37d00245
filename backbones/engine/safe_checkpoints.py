"""Checkpoints that a kill, a full disk or a crash cannot lose.

mmengine removes the oldest checkpoint before it writes the new one, and writes in place. Here it writes into a folder
beside; what is whole moves to its place, and only then the old one goes. At every moment ``last_checkpoint`` names a
whole checkpoint, once there is one.
"""

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import all_reduce, barrier, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from backbones.checkpoints.unpickle import inert_pickle
from backbones.errors import NotSavedError

STAGE = ".partial"  # folder beside the checkpoints; what it holds is not whole
KEPT = 2  # checkpoints, besides the best one
WEIGHTS = "weights.pth"  # file of a checkpoint that is a folder: all but the optimizer's state


class StagedRunner:
    """Stands in for a runner while checkpoints are written: its files go into the folders ``.partial``.

    Args:
        runner: The runner.
        folder: Folder of the checkpoints; ``last_checkpoint`` belongs into the runner's work dir.
    """

    def __init__(self, runner: Any, folder: str) -> None:
        self.runner, self.folder = runner, Path(folder)
        self.work_dir = str(Path(runner.work_dir, STAGE))
        self.stages = {self.folder / STAGE: self.folder, Path(self.work_dir): Path(runner.work_dir)}
        for stage in self.stages:
            stage.mkdir(parents=True, exist_ok=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, meta: dict, **kwargs: Any) -> None:
        """Write a checkpoint into ``.partial`` and check it; see ``mmengine.runner.Runner``."""
        self.runner.save_checkpoint(str(self.folder / STAGE), filename, *args, meta=dict(meta), **kwargs)
        barrier()  # sharded checkpoints have a file of each process
        if is_main_process():
            check(self.folder / STAGE / filename, meta)

    def move(self) -> list[Path]:
        """Move the whole files to their places: the best one, the newest one, and last ``last_checkpoint``."""
        moved = []
        for stage, place in self.stages.items():
            for source in sorted(stage.iterdir(), key=lambda path: (path.name == "last_checkpoint", path.name)):
                _move(source, place / source.name)
                moved.append(place / source.name)
        return moved

    def clean(self) -> None:
        """Remove the folders."""
        for stage in self.stages:
            shutil.rmtree(stage, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Rename atomically. The files of a directory that is there already, of the same step, are exchanged one by one."""
    for file in [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]:
        _flush(file)
    if target.is_dir():
        for file in [path for path in source.rglob("*") if path.is_file()]:
            os.replace(file, target / file.relative_to(source))
    else:
        os.replace(source, target)
    with suppress(OSError):  # not every file system can do it for a folder
        _flush(target.parent)


def _flush(path: Path) -> None:
    """Have the system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check(path: Path, meta: dict | None = None) -> dict:
    """Read a checkpoint back; no code of the file runs.

    Args:
        path: A file, or the directory of a divided checkpoint, whose parts are checked for their bytes only.
        meta: Entries that its ``meta`` must have, as ``epoch`` and ``iter``.

    Returns:
        The checkpoint, its weights still on the disk; of a directory, its ``weights.pth``, or empty.

    Raises:
        NotSavedError: if it is not whole, or of another step.
    """
    try:
        for file in [path] if path.is_file() else filter(zipfile.is_zipfile, path.rglob("*")):
            with zipfile.ZipFile(file) as archive:
                if broken := archive.testzip():
                    raise zipfile.BadZipFile(f"{broken} does not have its checksum")
        options: dict[str, Any] = dict(map_location="cpu", mmap=True, weights_only=False)
        whole = path / WEIGHTS if path.is_dir() else path
        checkpoint = torch.load(whole, pickle_module=inert_pickle(set()), **options) if whole.is_file() else {}
    except Exception as error:  # broken bytes may raise anything
        raise NotSavedError(f"{path.name} cannot be read back ({type(error).__name__}: {error})") from error
    step = {key: checkpoint["meta"][key] for key in meta or () if checkpoint}
    if checkpoint and meta and step != meta:
        raise NotSavedError(f"{path.name} is of another step, {step}, not {meta}")
    return checkpoint


class LateRemoval:
    """A storage backend that removes nothing before ``remove_now``."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.paths: list[Path] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Remember a file."""
        self.paths.append(Path(path))

    rmtree = remove

    def remove_now(self, new: list[Path]) -> None:
        """Remove what was remembered, unless it has just been written anew."""
        for path in self.paths:
            if path not in new:
                _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, with checkpoints written beside, read back and renamed before an older one goes.

    A training that stops between two iterations is saved as ``stopped_iter_N.pth``, until the next regular
    checkpoint. Gradients that wait for their update (``accumulative_counts``) are saved, too: the mean over the
    processes, as the update would take it. For folders of this machine; others are written as mmengine does.

    Args:
        max_keep_ckpts: Number of regular checkpoints kept, beside the best one; -1 keeps all.
        save_best: As mmengine's; ``'auto'`` takes the mean IoU if there is one, or else the first metric that is known
            to be better when it is higher or lower, and no checkpoint if there is none.
        kwargs: As mmengine's.

    Raises:
        NotSavedError: when a checkpoint cannot be written; the earlier ones are intact.
    """

    def __init__(self, *args: Any, max_keep_ckpts: int = KEPT, save_best: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, max_keep_ckpts=max_keep_ckpts, save_best=save_best, **kwargs)
        self.meta: dict[str, int] = {}
        self.kept: list[int] = []
        self.gradients: dict[str, torch.Tensor] = {}

    # -- saving
    def before_train(self, runner: Any) -> None:
        """Find the folder, and remove what a kill has left half-written."""
        super().before_train(runner)
        self.local = isinstance(self.file_backend, LocalBackend)
        if self.local and is_main_process():
            for folder in (self.out_dir, runner.work_dir):
                shutil.rmtree(Path(folder, STAGE), ignore_errors=True)
        if runner.iter and self.gradients:  # of the checkpoint that is resumed
            for name, parameter in _model(runner).named_parameters():
                if name in self.gradients:
                    parameter.grad = self.gradients[name].to(parameter)
            runner.logger.info("the gradients that wait for their update were in the checkpoint")
        self.gradients = {}

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        self.kept = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        with self._staged(runner) as staged:
            self.meta = meta
            super()._save_checkpoint_with_step(staged, step, meta)
        self.kept = []

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if self.save_best == ["auto"]:
            metrics = self._main_metric(metrics)
        if metrics:
            with self._staged(runner) as staged:
                self.meta = dict(epoch=runner.epoch, iter=runner.iter)
                super()._save_best_checkpoint(staged, metrics)

    def _main_metric(self, metrics: dict) -> dict:
        """The metric chosen by an earlier evaluation, or else by this one."""
        if self.key_indicators != ["auto"]:
            return {key: metrics[key] for key in self.key_indicators if key in metrics}
        names = [name.lower() for name in (*(self.greater_keys or ()), *(self.less_keys or ()))]
        known = [key for key in metrics if any(name in key.lower() for name in names)]
        known.sort(key=lambda key: "miou" not in key.lower())
        return {key: metrics[key] for key in known[:1]}

    def save_stopped(self, runner: Any, meta: dict) -> str:
        """Save the state between two iterations with this ``meta``; returns the path."""
        name = f"stopped_iter_{meta['iter']}.pth"
        path = str(self.file_backend.join_path(self.out_dir, name))
        with self._staged(runner) as staged:
            self.meta = meta
            staged.save_checkpoint(self.out_dir, name, meta=self.meta, by_epoch=False, backend_args=self.backend_args)
            if is_main_process():
                Path(staged.work_dir, "last_checkpoint").write_text(path)
        return path

    @contextmanager
    def _staged(self, runner: Any) -> Iterator[Any]:
        """A stand-in for the runner; what it wrote is put in place, and what is old removed, at the end."""
        if isinstance(runner, StagedRunner) or not self.local:
            yield runner
            return
        self.gradients = waiting_gradients(runner)
        backend, staged = self.file_backend, None
        self.file_backend = late = LateRemoval(backend)
        try:
            staged = StagedRunner(runner, self.out_dir)
            yield staged
            if is_main_process():
                late.remove_now(new=staged.move())
                self._remove_stopped(runner)
        except (OSError, NotSavedError) as error:
            raise NotSavedError(f"no checkpoint could be written into {self.out_dir}: {error}") from error
        finally:
            self.file_backend, self.gradients, self.meta = backend, {}, {}
            if staged and is_main_process():
                staged.clean()
        barrier()

    def _remove_stopped(self, runner: Any) -> None:
        last = Path(runner.work_dir, "last_checkpoint")
        for path in Path(self.out_dir).glob("stopped_iter_*.pth"):
            if last.is_file() and path.name != Path(last.read_text()).name:
                _remove(path)

    # -- what goes into a checkpoint, and comes out of it
    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Add the waiting gradients, the step, and the checkpoints that are still to be removed."""
        checkpoint["meta"].update(self.meta)  # FlexibleRunner has steps of its own
        if self.gradients:
            checkpoint["gradients"] = {name: gradient.cpu() for name, gradient in self.gradients.items()}
        info = checkpoint["message_hub"]["runtime_info"]
        if self.kept and "keep_ckpt_ids" in info:  # a run killed before their removal finds them here
            info["keep_ckpt_ids"] = [*(i for i in self.kept if i not in info["keep_ckpt_ids"]), *info["keep_ckpt_ids"]]

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Take the waiting gradients."""
        self.gradients = checkpoint.pop("gradients", {})


def _model(runner: Any) -> torch.nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def waiting_gradients(runner: Any) -> dict[str, torch.Tensor]:
    """{parameter: gradient} of iterations whose update is still to come; the mean over the processes."""
    wrapper = runner.optim_wrapper
    if not isinstance(runner, Runner) or not isinstance(wrapper, OptimWrapper) or wrapper.should_update():
        return {}
    found = {}
    for name, parameter in _model(runner).named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.clone()
            all_reduce(found[name], "mean")
    return found


def checkpoint_hook(runner: Any) -> SafeCheckpointHook:
    """The hook of a runner whose config went through ``keep_safe``."""
    return next(hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook))


def type_name(node: dict) -> str:
    """``CheckpointHook`` for ``mmengine.CheckpointHook`` and for the class."""
    kind = node.get("type")
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]


def keep_safe(cfg: Config) -> None:
    """Put the hook into a training config in place of mmengine's, in place.

    A config whose ``default_hooks`` have no checkpoints, or those of another hook, gets one that saves only where a
    training stops.
    """
    cfg.default_hooks = cfg.get("default_hooks") or ConfigDict()
    hook = cfg.default_hooks.setdefault("checkpoint", dict(type="CheckpointHook", interval=1))  # mmengine's default
    if hook and type_name(hook) == "CheckpointHook":
        hook["type"] = "SafeCheckpointHook"
        if cfg.get("val_dataloader"):
            hook.setdefault("save_best", "auto")
    elif not hook or type_name(hook) != "SafeCheckpointHook":
        only_stopped = dict(type="SafeCheckpointHook", save_last=False)
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), only_stopped]
