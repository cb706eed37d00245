"""Training goes on when an image breaks, unless many do.

The image is logged with its name, and another sample takes its place. Which one follows from the counters of
``resumable``, so a resumed run stays the same run.
"""

import math
import multiprocessing
from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, TRANSFORMS
from mmengine.runner import EpochBasedTrainLoop, Runner

from backbones.errors import BrokenImagesError

MAX_SHARE = 0.01  # of the samples of an epoch
TRIES = 10  # samples one after the other: if all of them are broken, the folder is


class BrokenImage(Exception):
    """An image that cannot be read; the message names it and the reason."""


@TRANSFORMS.register_module()
class LoadOrReport:
    """Loads an image by another transform, whose errors become a ``BrokenImage``.

    Args:
        loader: Config of the transform; it reads the file ``results["img_path"]``.
    """

    def __init__(self, loader: dict) -> None:
        self.loader: Callable[[dict], dict | None] = TRANSFORMS.build(loader)

    def __call__(self, results: dict) -> dict:
        try:
            loaded = self.loader(results)
        except Exception as error:  # decoders raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise BrokenImage(f"{results['img_path']} ({reason})") from error
        if loaded is None:  # its option ignore_empty
            raise BrokenImage(f"{results['img_path']} (empty)")
        return loaded

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.loader!r})"


class Replacements:
    """Draws samples until one loads; its count is shared with the data-loading workers."""

    def __init__(self) -> None:
        self.count = multiprocessing.Value("q")

    def draw(self, sample: Callable[[int], Any]) -> Any:
        """The first of ``sample(0)``, ``sample(1)``, ... that loads.

        Raises:
            BrokenImagesError: if ``TRIES`` do not.
        """
        reasons = []
        for attempt in range(TRIES):
            try:
                return sample(attempt)
            except BrokenImage as broken:
                reasons.append(str(broken))
                print_log(f"broken image, replaced by another sample: {broken}", logger="current", level=30)
                with self.count.get_lock():
                    self.count.value += 1
        raise BrokenImagesError(f"{TRIES} images in a row cannot be read, the last is {reasons[-1]}")


@HOOKS.register_module()
class BrokenImagesHook(Hook):
    """Stops a training by a ``BrokenImagesError`` if more than 1 % of the images of an epoch are broken.

    A loop of iterations has no epochs; there it is 1 % of all samples since the start, in multiples of the data set's
    length.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Start counting."""
        self.before, self.first_iter = self._count(runner), runner.iter

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Compare the count, of the batches that are loaded, with the limit."""
        resumed = runner.iter == self.first_iter > 0 and not isinstance(runner.train_loop, EpochBasedTrainLoop)
        if resumed:  # some versions of mmengine read all batches before it again
            self.before = self._count(runner)
        self._check(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Compare the count with the limit once more, for the last batches."""
        self._check(runner, runner.iter)

    def _check(self, runner: Runner, iters: int) -> None:
        loader: Any = runner.train_dataloader
        broken = self._count(runner) - self.before
        epochs = math.ceil((iters - self.first_iter) / len(loader))  # 1 in a loop of epochs
        samples = epochs * len(loader) * (loader.batch_size or loader.batch_sampler.batch_size)
        if broken > MAX_SHARE * samples:
            raise BrokenImagesError(
                f"{broken} of {samples} images could not be read, more than {MAX_SHARE:.0%}; the log names them"
            )

    @staticmethod
    def _count(runner: Runner) -> int:
        return runner.train_dataloader.dataset.replacements.count.value  # type: ignore[union-attr]


def report_broken_images(cfg: Config) -> None:
    """Put ``LoadOrReport`` around every ``LoadImageFromFile`` of a training config, and the hook into it, in place."""

    def wrapped(node: Any) -> Any:
        if isinstance(node, dict):
            if str(node.get("type")).rpartition(".")[2] == "LoadImageFromFile":
                return dict(type="LoadOrReport", loader=node)
            return type(node)({key: value if key == "loader" else wrapped(value) for key, value in node.items()})
        return type(node)(map(wrapped, node)) if isinstance(node, (list, tuple)) else node

    hooks = cfg.get("custom_hooks") or []
    cfg.train_dataloader = wrapped(cfg.train_dataloader)
    cfg.custom_hooks = wrapped(hooks)  # some switch the pipeline
    if not any(hook.get("type") == "BrokenImagesHook" for hook in hooks):
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type="BrokenImagesHook")]
