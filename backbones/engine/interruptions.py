"""A training that is told to stop saves its state, ends with status 0, and goes on from there as if uninterrupted.

Clusters send SIGTERM or SIGUSR1 before they kill; a time limit does the same from inside. Loops of iterations can
go on anywhere; :class:`ResumableEpochLoop` makes loops of epochs go on in the middle of one.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_reduce, broadcast_object_list, is_distributed, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from backbones.engine.safe_checkpoints import checkpoint_hook, type_name

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop of epochs, which can start behind the first batches of an epoch.

    Attributes:
        first_iter: Number of iterations before the present epoch.
        part: From a checkpoint made in the middle of an epoch: iterations of the run, iterations of the epoch, and
            the epoch's length.
    """

    first_iter = 0
    part = (-1, 0, 0)

    def run_epoch(self) -> None:
        """Iterate one epoch, or what is left of it; see ``mmengine.runner.EpochBasedTrainLoop``."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        iters, done, length = self.part
        if iters != self._iter:
            done = 0
        elif length != len(self.dataloader):  # another number of processes, or another batch size
            self.runner.logger.warning(f"an epoch has {len(self.dataloader)} batches, in the checkpoint {length}")
            done = done * len(self.dataloader) // length
        self.first_iter = self._iter - done
        for index, batch in enumerate(rest_of(self.dataloader, done), done):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.first_iter = self._iter


def rest_of(loader: DataLoader, done: int) -> DataLoader:
    """The batches behind the first ``done`` of an epoch, without loading those; the sampler knows its epoch."""
    if not done:
        return loader
    same = ("dataset", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "prefetch_factor")
    batches = list(islice(iter(loader.batch_sampler), done, None))  # type: ignore[arg-type]
    return DataLoader(batch_sampler=batches, **{name: getattr(loader, name) for name in same})


def save_stopped(runner: Any) -> str:
    """Save the state between two iterations, for ``--resume``; returns the checkpoint's path."""
    meta, loop = dict(epoch=runner.epoch, iter=runner.iter), runner.train_loop
    if isinstance(loop, ResumableEpochLoop):
        meta.update(batches=runner.iter - loop.first_iter, epoch_length=len(loop.dataloader))
    return checkpoint_hook(runner).save_stopped(runner, meta)


@HOOKS.register_module()
class StopHook(Hook):
    """Saves the state and ends the process, with status 0, at SIGTERM, SIGUSR1 or a time limit.

    It stops before the next iteration, or in an evaluation, which the resumed run starts anew. Several processes stop
    together, and finish an evaluation that has begun. A loop that is no ``ResumableEpochLoop`` or
    ``IterBasedTrainLoop`` stops between two epochs.

    Args:
        time_limit: Seconds after which training stops, or None.
    """

    priority = "HIGHEST"  # before anything of the next iteration

    def __init__(self, time_limit: float | None = None) -> None:
        self.deadline = None if time_limit is None else time.monotonic() + time_limit
        self.reason: str | None = None

    def before_train(self, runner: Any) -> None:
        """Listen to the signals, and keep them from the data-loading workers."""
        self.before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            loop.dataloader.worker_init_fn = partial(hear_parent_only, loop.dataloader.worker_init_fn)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Stop between two iterations."""
        anywhere = isinstance(runner.train_loop, (ResumableEpochLoop, IterBasedTrainLoop))
        if self._agreed() and (anywhere or batch_idx == 0):
            self._stop(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Stop before an evaluation."""
        if self._agreed():
            self._stop(runner)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Stop in an evaluation; several processes, whose numbers of batches may differ, finish it."""
        if not is_distributed() and self._agreed():
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # the model has its weights now
                    hook.after_val_epoch(runner)
            self._stop(runner)

    def after_train(self, runner: Any) -> None:
        """Leave the signals as they were."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: Any) -> None:
        self.reason = signal.Signals(number).name

    def _agreed(self) -> bool:
        """Whether any process is to stop."""
        if self.reason is None and self.deadline is not None and time.monotonic() > self.deadline:
            self.reason = "the time limit"
        asked = torch.tensor(int(self.reason is not None))
        all_reduce(asked, "max")
        return bool(asked)

    def _stop(self, runner: Any) -> None:
        path = save_stopped(runner)
        if is_main_process():
            print(
                f"stopped by {self.reason or 'another process'} after iteration {runner.iter} of {runner.max_iters}, "
                f"saved as {path}; to go on, add --resume to the same command",
                flush=True,
            )
        raise SystemExit(0)


@HOOKS.register_module()
class GoOnHook(Hook):
    """Has a resumed run start where the checkpoint was made: in an epoch, or before an evaluation.

    The file ``last_evaluation`` of the work dir has the iteration of the latest complete evaluation, as a checkpoint
    is written before it.
    """

    priority = "LOWEST"  # when every hook is ready for the evaluation

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Learn where in the epoch."""
        meta = checkpoint.get("meta", {})
        if "batches" in meta and isinstance(runner.train_loop, ResumableEpochLoop):
            runner.train_loop.part = meta["iter"], meta["batches"], meta["epoch_length"]

    def before_train(self, runner: Any) -> None:
        """Make up for an evaluation that was not finished."""
        if runner.iter and runner.val_loop is not None and self._due(runner.train_loop):
            evaluated = [int(file.read_text()) if (file := self._file(runner)).is_file() else 0]
            broadcast_object_list(evaluated)  # the other processes may not see the work dir
            if evaluated[0] < runner.iter:
                runner.val_loop.run()

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Note that the evaluation is complete."""
        if is_main_process():
            file = self._file(runner)
            beside = file.with_name(f"{file.name}.partial")
            beside.write_text(str(runner.iter))
            os.replace(beside, file)

    @staticmethod
    def _due(loop: Any) -> bool:
        """Whether an evaluation comes at this point, as mmengine's loops decide."""
        if isinstance(loop, ResumableEpochLoop):
            if loop.part[0] == loop.iter and loop.part[1]:
                return False  # in the middle of an epoch
            done, last = loop.epoch, loop.max_epochs
        elif isinstance(loop, IterBasedTrainLoop):
            done, last = loop.iter, loop.max_iters
        else:
            return False  # a loop of its own rules
        return done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)

    @staticmethod
    def _file(runner: Any) -> Path:
        return Path(runner.work_dir, "last_evaluation")


def hear_parent_only(init: Callable[[int], None] | None, worker: int) -> None:
    """Have a data-loading worker ignore the signals that clusters send to every process of a job.

    Args:
        init: The loader's own ``worker_init_fn``.
        worker: The worker's number.
    """

    def listen() -> None:
        while True:
            heard = signal.sigwaitinfo(SIGNALS)
            if heard.si_signo == signal.SIGTERM and heard.si_pid == os.getppid():  # PyTorch ends its workers so
                os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=listen, daemon=True).start()
    if init:
        init(worker)


def make_stoppable(cfg: Config) -> None:
    """Put the loop and the hooks into a training config, in place."""
    loop = cfg.train_cfg
    if type_name(loop) == "EpochBasedTrainLoop" or ("type" not in loop and loop.get("by_epoch")):
        loop.pop("by_epoch", None)
        loop.type = "ResumableEpochLoop"
    cfg.custom_hooks = [
        *(cfg.get("custom_hooks") or []),
        dict(type="GoOnHook"),
        dict(type="StopHook"),
    ]
