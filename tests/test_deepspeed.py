"""Training divided by DeepSpeed's ZeRO, real processes on gloo: losses and weights of the whole model, and checkpoints."""

import copy
import itertools
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import test_sharded_training as sharded
import torch
from archs import small_arch
from mmengine._strategy import SingleDeviceStrategy
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS, OPTIMIZERS
from mmengine.structures import BaseDataElement
from processes import in_processes
from small_run import Interruption, Recorder, send
from tool_runs import ROOT, losses, verb

from backbones.engine.zero import ZeroStrategy
from backbones.errors import SetupError

pytest.importorskip("deepspeed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

STEPS, BATCH, STAGES = 3, 8, (2, 3)
REVCOL = dict(type="RevCol", arch=dict(channels=(4, 6, 8, 10), depths=(1, 2, 1, 1), num_columns=4, top_link=True))
BACKBONES = [
    REVCOL,
    *(dict(REVCOL, reversible=True, keep_every=k) for k in (1, 3, "auto")),
    dict(type="PlainViT", arch=small_arch("PlainViT")),
    dict(type="PlainViT", arch=small_arch("PlainViT"), with_cp=True),
]
OPTIM = dict(
    constructor="DenseLayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.8),
    optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.5),
    clip_grad=dict(max_norm=0.05),
)


def zero(stage: int, **options) -> dict:
    """Every parameter is divided; DeepSpeed would keep small ones whole."""
    return dict(stage=stage, stage3_param_persistence_threshold=0, **options)


def trained(strategy, backbone: dict, part: slice = slice(None)) -> list[float]:
    """The losses of three steps."""
    torch.manual_seed(0)
    model = sharded.SmallDetector(copy.deepcopy(backbone))
    options = dict(dispatch_kwargs=dict(epoch_length=STEPS, max_epochs=1, max_iters=STEPS))
    schedule = dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=2)
    strategy.prepare(model, optim_wrapper=copy.deepcopy(OPTIM), param_scheduler=schedule, **options)
    found = []
    for step in range(STEPS):
        numbers = torch.rand(BATCH, 1, generator=torch.Generator().manual_seed(step))[part]
        data = dict(inputs=list(numbers), data_samples=[BaseDataElement()] * len(numbers))
        found.append(strategy.model.train_step(data, optim_wrapper=strategy.optim_wrapper)["loss"].item())
        for scheduler in strategy.param_schedulers:
            scheduler.step()
    return found


class Detector(sharded.SmallDetector):
    """On any backbone."""


def in_parts(rank: int, folder: str, cases: list[tuple[int, dict]]) -> list[list[float]]:
    os.environ["LOCAL_RANK"] = str(rank)
    found, ranks = [], torch.distributed.get_world_size()
    part = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    for i, (stage, backbone) in enumerate(cases):
        for name in [name for name, cls in OPTIMIZERS.module_dict.items() if "deepspeed" in cls.__module__]:
            OPTIMIZERS.module_dict.pop(name)  # mmengine registers them with each strategy
        strategy = ZeroStrategy(zero_optimization=zero(stage), work_dir=folder)
        found.append(trained(strategy, backbone, part))
        strategy.save_checkpoint(f"{folder}/{i}", extra_ckpt={})
    return found


def test_divided_model_trains_as_the_whole_one(tmp_path):
    cases = list(itertools.product(STAGES, BACKBONES))
    found = in_processes(2, tmp_path, in_parts, str(tmp_path), cases)
    for i, (stage, backbone) in enumerate(cases):
        strategy = SingleDeviceStrategy(work_dir=str(tmp_path))
        whole = trained(strategy, backbone)
        assert [sum(ranks) / 2 for ranks in zip(*(rank[i] for rank in found), strict=True)] == pytest.approx(
            whole, rel=1e-5
        ), (stage, backbone)
        parts = torch.load(tmp_path / str(i) / "weights.pth", weights_only=False)["state_dict"]
        torch.testing.assert_close(
            parts,
            dict(strategy.model.state_dict()),
            rtol=0,
            atol=1e-5,
            msg=lambda text, case=(stage, backbone): f"{case}: {text}",
        )
