"""``train --shard`` with real processes on gloo: DistributedDataParallel's losses, and checkpoints of any number."""

import gc
import json
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from mmengine.structures import BaseDataElement
from processes import in_processes
from small_run import Interruption, Recorder, send, train
from tool_runs import losses, verb
from torch._subclasses import FakeTensor
from torch.distributed.fsdp import FullyShardedDataParallel

from backbones.benchmark.measure import MIB, peak_mib
from backbones.cli.train import check_processes
from backbones.engine.sharded import shard, wrap_policy
from backbones.errors import SetupError
from backbones.info import memory
from backbones.usage import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")

CONFIG = """
default_scope = "mmengine"
model = dict(
    type="SmallDetector",
    backbone=dict(
        type="RevCol",
        arch=dict(channels=(4, 6, 8, 10), depths=(1, 1, 1, 1), num_columns=2),
        reversible=True,
        keep_every="auto",
    ),
)
dataset = dict(type="SmallPictures", root={root!r}, noise=0)
train_dataloader = dict(dataset=dataset, sampler=dict(type="DefaultSampler", shuffle=True), batch_size=8, num_workers=0)
val_dataloader = dict(
    dataset=dict(length=7, **dataset), sampler=dict(type="DefaultSampler", shuffle=False), batch_size=1
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type="SmallMetric")
val_cfg = test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=6, val_interval=3)
param_scheduler = dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=5)
optim_wrapper = dict(
    constructor="DenseLayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.8),
    optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.5),
    clip_grad=dict(max_norm=0.05),
    accumulative_counts=2,
)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=-1),
)
custom_hooks = [dict(type="Trap")]
randomness = dict(seed=3)
"""
BAD = 1  # index of an iteration whose loss is NaN; the update is due then, with the gradients of the one before


@MODELS.register_module()
class SmallDetector(BaseModel):
    """Tells how bright a picture is, from the number that stands for it."""

    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.head = torch.nn.Linear(sum(self.backbone.out_channels), 1)

    def forward(self, inputs: list[torch.Tensor], data_samples: list[BaseDataElement], mode: str):
        pattern = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32).sin()
        numbers = torch.stack(inputs)
        maps = self.backbone(numbers[:, :, None, None] * pattern)
        values = self.head(torch.cat([f.mean((2, 3)) for f in maps], 1))
        if mode == "predict":
            return [BaseDataElement(score=value.mean()) for value in values]
        loss = (values - numbers * (Trap.iteration % 3 - 1)).square().mean()  # no two gradients in a row are alike
        return {"loss_a": loss * float("nan") if Trap.iteration == BAD else loss}


@HOOKS.register_module()
class Trap(Hook):
    """Lets an ``Interruption`` know where the training is."""

    iteration = -1

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        Trap.iteration = runner.iter
        if Recorder.trap:
            Recorder.trap("training")


def write_config(folder: Path) -> Path:
    images, path = folder / "images", folder / "config.py"
    images.mkdir()
    for i in range(8):
        (images / f"{i}.jpg").write_text(str(i / 8))
    path.write_text(CONFIG.format(root=str(images)))
    return path


def join(rank: int, count: int, port: int, before: Callable[[], None] | None = None) -> None:
    """Makes this process one of several."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if before:
        before()


def run(count: int, config: Path, work_dir: Path, *arguments: str, before: Callable[[], None] | None = None) -> str:
    """Trains with several processes, the first of which calls ``before``; returns its output.

    Together they take the whole data set in every iteration, so that their number makes no difference.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ("--launcher", "pytorch", "--on-nan", "skip", *arguments)
    arguments += ("--cfg-options", f"train_dataloader.batch_size={8 // count}")
    ranks = [partial(join, rank, count, port, None if rank else before) for rank in range(count)]
    processes = [train(config, work_dir, *arguments, before=enter, rank=rank) for rank, enter in enumerate(ranks)]
    processes[0].join(120)
    for process in processes[1:]:
        process.join(20)
    for process in processes:
        process.kill()
        process.join()
    outputs = [path.read_text() for path in sorted(work_dir.parent.glob(f"{work_dir.name}.output*"))]
    if before is None:
        assert [process.exitcode for process in processes] == [0] * count, "\n".join(outputs)
    return outputs[0]


def final(work_dir: Path, part: str = "state_dict") -> dict[str, torch.Tensor]:
    return torch.load(work_dir / "epoch_6.pth", weights_only=False)[part]


def evaluations(work_dir: Path) -> list[float]:
    (file,) = work_dir.glob("*/vis_data/scalars.json")
    records = map(json.loads, file.read_text().splitlines())
    return [record["mAP"] for record in records if "mAP" in record]


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> tuple[Path, Path]:
    """The config and the work dir of a training divided over two processes, which nothing interrupts."""
    folder = tmp_path_factory.mktemp("divided")
    config, work_dir = write_config(folder), folder / "work"
    run(2, config, work_dir, "--shard")
    return config, work_dir


@pytest.mark.slow
def test_divided_model_trains_as_the_whole_one(divided, tmp_path):
    config, work_dir = divided
    run(2, config, tmp_path / "whole")
    (parts,), (whole,) = losses(work_dir), losses(tmp_path / "whole")
    assert list(parts) == [1, 2, 3, 4, 5, 6]
    assert parts == pytest.approx(whole, rel=1e-5)
    assert evaluations(work_dir) == pytest.approx(evaluations(tmp_path / "whole"), rel=1e-4)  # of 7 images
    torch.testing.assert_close(final(work_dir), final(tmp_path / "whole"), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (2, 1, "SIGKILL"),
        (1, 2, "SIGTERM"),
        pytest.param(2, 2, "SIGKILL", marks=pytest.mark.long),
        pytest.param(2, 4, "SIGTERM", marks=pytest.mark.long),
    ],
)
def test_interrupted_training_goes_on_with_any_number_of_processes(before, after, name, divided, tmp_path):
    config, work_dir = divided
    stop = Interruption("training", number=4, act=partial(send, signal.Signals[name]))
    output = run(before, config, tmp_path / "work", "--shard", before=stop.listen)
    last = torch.load((tmp_path / "work" / "last_checkpoint").read_text(), weights_only=False)
    if name == "SIGTERM":
        assert "stopped by SIGTERM after iteration 4 of 6" in output
    else:
        assert any("waiting_gradient" in state for state in last["optimizer"]["state"].values())
    run(after, config, tmp_path / "work", "--shard", "--resume")
    torch.testing.assert_close(final(tmp_path / "work"), final(work_dir), rtol=0, atol=1e-6)
    found, expected = (final(folder, "optimizer")["state"] for folder in (tmp_path / "work", work_dir))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_checkpoint_of_a_divided_training_is_as_any_other(divided, tmp_path):
    _, work_dir = divided
    checkpoint = work_dir / "epoch_6.pth"
    verb("test", work_dir / "config.py", checkpoint, "--work-dir", tmp_path / "test")  # the config as it was trained
    verb("export-weights", checkpoint, "-o", tmp_path / "backbone.pth")
    exported = torch.load(tmp_path / "backbone.pth")["state_dict"]
    trained = final(work_dir)
    assert exported.keys() == {name[9:] for name in trained if name.startswith("backbone.")}
    assert all(torch.equal(value, trained[f"backbone.{name}"]) for name, value in exported.items())


def test_resuming_without_the_flag_is_refused(divided, fail):
    config, work_dir = divided
    message = fail("train", config, "--work-dir", work_dir, "--resume")
    assert "epoch_6.pth is of a training with --shard; go on likewise" in message


def processes_of(accumulative_counts: int = 1, **settings) -> Config:
    return Config(dict(launcher="pytorch", optim_wrapper=dict(accumulative_counts=accumulative_counts), **settings))


@pytest.mark.skipif(get_device() != "cpu", reason="it is about a machine without a GPU")
@pytest.mark.parametrize(("sync_bn", "norm"), [("torch", torch.nn.BatchNorm2d), (None, torch.nn.SyncBatchNorm)])
def test_batch_norms_of_all_processes_need_gpus(sync_bn, norm):
    with pytest.raises(UsageError, match="SyncBN takes the statistics of all processes on GPUs"):
        check_processes(processes_of(sync_bn=sync_bn), torch.nn.Sequential(norm(1)))
    check_processes(processes_of(), torch.nn.BatchNorm2d(1))


def test_static_graph_does_not_accumulate():
    static = dict(model_wrapper_cfg=dict(static_graph=True))
    with pytest.raises(UsageError, match="accumulative_counts=2 they wait for iteration 2; leave one of the two out"):
        check_processes(processes_of(2, **static), torch.nn.Linear(1, 1))
    check_processes(processes_of(1, **static), torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(launcher="none"), "no launcher starts them: tools/dist_train.sh CONFIG GPUS --shard"),
        (dict(custom_hooks=[dict(type="EMAHook")]), "EMAHook averages whole weights"),
        (dict(val_dataloader=dict(sampler=dict(type="InfiniteSampler"))), "is a InfiniteSampler; it must be"),
    ],
)
def test_training_that_cannot_be_divided_is_refused(changes, message, tmp_path):
    cfg = Config.fromfile(write_config(tmp_path))
    cfg.merge_from_dict({"launcher": "pytorch", **changes})
    with pytest.raises(SetupError, match=message):
        shard(cfg)


# -------------------------------------------------------------------------------------------------------------- memory
SCALED_HUGE = dict(
    type="RevCol", arch=dict(channels=(24, 48, 96, 192), depths=(1, 2, 6, 2), num_columns=4, top_link=True)
)
SHAPE, CPU = (1, 3, 160, 160), torch.device("cpu")
MEMORY_MODES = dict(plain=dict(reversible=False), reversible=dict(reversible=True))


class Headed(torch.nn.Module):
    """A backbone and a head, whose parameters are outside every unit."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = MODELS.build(SCALED_HUGE)
        self.head = torch.nn.Conv2d(192, 256, 3, padding=1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        *finer, coarsest = self.backbone(x)
        return [*finer, self.head(coarsest)]


def alive() -> int:
    """Bytes of the tensors of this process."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and not isinstance(t, FakeTensor)]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def measured_memory(rank: int) -> dict[str, int]:
    """Bytes of this process at the peak of a training step."""
    before, net = alive(), Headed()
    model = FullyShardedDataParallel(net, auto_wrap_policy=wrap_policy(net), use_orig_params=True, device_id=CPU)
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.rand(SHAPE)

    def step() -> None:
        sum(f.sum() for f in model(images)).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    found = {}
    for name, mode in MEMORY_MODES.items():
        for attribute, value in mode.items():
            setattr(net.backbone, attribute, value)
        with torch.no_grad():
            model(images)  # the profiler does not see that memory is freed which it has not seen allocated: gradients
        found[name] = alive() - before + round(peak_mib(step, CPU) * MIB)
    return found


def predicted_memory(rank: int) -> dict[str, int]:
    counted = memory.count_step(SCALED_HUGE, SHAPE, CPU)
    return {name: size for name, size in memory.divided_bytes(Headed(), counted, 2).items() if name in MEMORY_MODES}


@pytest.mark.slow
def test_memory_of_each_process_is_as_predicted(tmp_path):
    (predicted,) = in_processes(1, tmp_path / "predicted", predicted_memory)
    for measured in in_processes(2, tmp_path / "measured", measured_memory):
        assert measured == pytest.approx(predicted, rel=0.1)
