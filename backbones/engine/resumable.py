"""Random numbers that follow from counters, so that a resumed run repeats the curve of an uninterrupted one.

mmengine restores weights, optimiser and schedules, but neither the random generators nor the data-loading workers.
Saved generator states would tie a checkpoint to the number of workers and to their prefetched samples. Here every
random number follows from a counter, and no state is saved:

- augmentation of a sample: from (seed, rank, epoch, position in the epoch), whichever worker loads it;
- the model's own draws (drop-path, sampling of proposals): from (seed, rank, iteration).

On a GPU the kernels' order of summation remains a source of rounding differences; on a CPU the loss curve is the same
to the bit.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_rank, sync_random_seed
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS
from torch.utils.data import Sampler

from backbones.engine import bad_losses  # noqa: F401  (registers its hook)
from backbones.engine.broken_images import Replacements, report_broken_images
from backbones.engine.interruptions import make_stoppable
from backbones.engine.safe_checkpoints import keep_safe


def set_seed(*counters: int) -> None:
    """Seed Python's, NumPy's and torch's generators from a few non-negative integers."""
    seed = int(np.random.SeedSequence(counters).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (the generator that the hosts' transforms use)
    torch.manual_seed(seed)


class SeededIndex(int):
    """A sample's index that carries the counters its random numbers follow from."""

    counters: tuple[int, ...]


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Another sampler, whose indices say which random numbers belong to them.

    Args:
        dataset: The data set.
        sampler: Config of the sampler that chooses the indices.
        seed: Seed of this sampler, and of the inner one unless its config has a seed.
    """

    def __init__(self, dataset: Any, sampler: dict, seed: int | None = None) -> None:
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.sampler = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=self.seed))
        self.epoch = 0
        self.start = 0
        if hasattr(self.sampler, "skip"):  # mmengine looks for this method to fast-forward an iteration-based loop
            self.skip = self._skip

    def __iter__(self) -> Iterator[SeededIndex]:
        for position, index in enumerate(self.sampler, self.start):
            index = SeededIndex(index)
            index.counters = (self.seed, get_rank(), 0, self.epoch, position)
            yield index

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and random numbers come next."""
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def _skip(self, num_samples: int) -> None:
        self.start = num_samples
        self.sampler.skip(num_samples)


@DATASETS.register_module()
class SeededDataset:
    """Wraps a data set and seeds the generators before each sample of a ``SeededSampler``.

    A sample whose image is broken is replaced by another one; see ``broken_images``.

    Args:
        dataset: Config of the data set.
    """

    def __init__(self, dataset: dict) -> None:
        self.__dict__["dataset"] = DATASETS.build(dataset)
        self.__dict__["replacements"] = Replacements()

    def __getitem__(self, index: SeededIndex) -> Any:
        def sample(attempt: int) -> Any:
            if not attempt:
                set_seed(*index.counters)
                return self.dataset[int(index)]
            set_seed(*index.counters, attempt)
            return self.dataset[random.randrange(len(self))]

        return self.replacements.draw(sample)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if "dataset" not in self.__dict__:  # while being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)  # hooks that switch the pipeline must reach the data set itself


@HOOKS.register_module()
class SeedIterationHook(Hook):
    """Seeds the model's random numbers of each training iteration from the run's seed and the iteration's number."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the generators; see ``mmengine.hooks.Hook``."""
        set_seed(runner.seed, get_rank(), 1, runner.iter)


def make_resumable(cfg: Config) -> None:
    """Put the classes above and those of the other files of this folder that guard a run into a config, in place.

    These are ``broken_images``, ``safe_checkpoints``, ``interruptions`` and ``bad_losses``. Call it last before
    building the runner.
    """
    loader = cfg.train_dataloader
    if loader.dataset.get("type") == "SeededDataset":  # the copy of a config that a work dir holds
        return
    report_broken_images(cfg)
    loader = cfg.train_dataloader
    loader.dataset = dict(type="SeededDataset", dataset=loader.dataset)
    loader.sampler = dict(type="SeededSampler", sampler=loader.sampler)
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="SeedIterationHook"), dict(type="BadLossHook")]
    keep_safe(cfg)
    make_stoppable(cfg)
