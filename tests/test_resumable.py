"""An interrupted and resumed run repeats the losses of an uninterrupted one, in both loops."""

import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, MODELS
from mmengine.runner import Runner

from backbones.engine.resumable import make_resumable

# mmengine, of itself
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no metainfo"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]


@DATASETS.register_module()
class NoisyNumbers:
    """Eight numbers, each with noise from every generator an augmentation may use."""

    metainfo = {}

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": torch.tensor([index + random.random() + np.random.rand() + torch.rand(()).item()])}  # noqa: NPY002


@MODELS.register_module()
class NoisyLine(BaseModel):
    """A line with dropout, whose loss shows all randomness there is."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 8)

    def forward(self, inputs: torch.Tensor, mode: str) -> dict[str, torch.Tensor]:
        return {"loss": torch.nn.functional.dropout(self.line(inputs), 0.5).square().mean()}


@HOOKS.register_module()
class Losses(Hook):
    """Keeps the losses in its ``log`` and dies before a given iteration."""

    log: dict[int, float] = {}

    def __init__(self, die_at: int) -> None:
        self.die_at = die_at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.die_at:
            raise KeyboardInterrupt

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.log[runner.iter] = outputs["loss"].item()


LOOPS = {
    "epochs": (dict(by_epoch=True, max_epochs=3), "DefaultSampler", dict(by_epoch=True, interval=1), 4),
    "iterations": (dict(by_epoch=False, max_iters=12), "InfiniteSampler", dict(by_epoch=False, interval=5), 5),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_interrupted_run_continues_with_the_same_losses(loop, tmp_path):
    """With two data-loading workers; ``test_interruptions`` has runs without."""
    train_cfg, sampler, checkpoint, resumed_at = LOOPS[loop]

    def train(name: str, die_at: int = -1, resume: bool = False) -> dict[int, float]:
        cfg = Config(
            dict(
                model=dict(type="NoisyLine"),
                train_dataloader=dict(
                    dataset=dict(type="NoisyNumbers"),
                    sampler=dict(type=sampler, shuffle=True),
                    batch_size=2,
                    num_workers=2,
                    persistent_workers=True,
                    collate_fn=dict(type="default_collate"),
                ),
                train_cfg=train_cfg,
                optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
                default_hooks=dict(checkpoint=dict(type="CheckpointHook", **checkpoint)),
                custom_hooks=[dict(type="Losses", die_at=die_at)],
                work_dir=str(tmp_path / name),
                experiment_name=f"{loop}-{name}-{resume}",
                randomness=dict(seed=3),
                resume=resume,
                default_scope="mmengine",
                log_level="ERROR",
            )
        )
        make_resumable(cfg)
        Losses.log = {}
        runner = Runner.from_cfg(cfg)
        try:
            runner.train()
        except KeyboardInterrupt:
            assert die_at >= 0
        # left to the garbage collection, PyTorch waits 5 s for each worker
        runner.train_loop.dataloader._iterator._shutdown_workers()
        return Losses.log

    whole = train("whole")
    assert list(whole) == list(range(12))
    assert train("broken", die_at=7) == {i: whole[i] for i in range(7)}
    assert train("broken", resume=True) == {i: whole[i] for i in range(resumed_at, 12)}
    assert train("whole again") == whole


def test_augmentation_differs_between_epochs_and_samples():
    dataset = DATASETS.build(dict(type="SeededDataset", dataset=dict(type="NoisyNumbers")))
    sampler = DATA_SAMPLERS.build(
        dict(type="SeededSampler", sampler=dict(type="DefaultSampler", shuffle=False)),
        default_args=dict(dataset=dataset, seed=0),
    )
    noise = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        noise += [dataset[i]["inputs"].item() - i for i in sampler]
    assert len(set(noise)) == 16


def test_stand_in_for_a_data_set_passes_changes_on():
    dataset = DATASETS.build(dict(type="SeededDataset", dataset=dict(type="NoisyNumbers")))
    dataset.pipeline = "switched"  # as mmdet's PipelineSwitchHook does
    assert dataset.dataset.pipeline == "switched"
    assert not hasattr(dataset, "full_init")
