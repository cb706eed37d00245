"""Training divided by DeepSpeed's ZeRO, real processes on gloo: losses and weights of the whole model; checkpoints."""

import copy
import itertools
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import test_sharded_training as sharded
import torch
from archs import small_arch
from mmengine._strategy import SingleDeviceStrategy
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, OPTIMIZERS
from mmengine.structures import BaseDataElement
from processes import in_processes
from small_run import Interruption, Recorder, send
from tool_runs import ROOT, losses, verb

from backbones.columns import MIN_SHORTCUT, clamped
from backbones.engine.zero import ZeroStrategy, gathered
from backbones.reversible import smallest_scales

pytest.importorskip("deepspeed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]

STEPS, BATCH, STAGES = 3, 8, (2, 3)
REVCOL = dict(type="RevCol", arch=dict(channels=(5, 6, 8, 10), depths=(1, 2, 1, 1), num_columns=4, top_link=True))
AUTO = dict(REVCOL, reversible=True, keep_every="auto")
BACKBONES = [
    AUTO,
    REVCOL,
    *(dict(REVCOL, reversible=True, keep_every=k) for k in (1, 3)),
    dict(type="PlainViT", arch=small_arch("PlainViT")),
    dict(type="PlainViT", arch=small_arch("PlainViT"), with_cp=True),
]
CASES = list(itertools.product(STAGES, BACKBONES))
OPTIM = dict(
    constructor="DenseLayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.8),
    optimizer=dict(type="AdamW", lr=0.01, weight_decay=0.5),
    clip_grad=dict(max_norm=0.05),
)


def zero(stage: int) -> dict:
    """Every parameter is divided; DeepSpeed would keep small ones whole."""
    return dict(stage=stage, stage3_param_persistence_threshold=0)


def write_start(backbone: dict, path: Path) -> None:
    """A checkpoint of weights that no process has at first."""
    torch.manual_seed(1)
    weights = sharded.SmallDetector(copy.deepcopy(backbone)).state_dict()
    if backbone["type"] == "RevCol":
        weights["backbone.subnet2.alpha1"][0, -1] = 0.01  # keep_every="auto" would take 4 without it, and takes 2
        weights["backbone.subnet0.alpha0"][0, 0] = -1e-4  # is clamped
    torch.save(dict(state_dict=weights), path)


def scales(backbone: torch.nn.Module) -> list[float]:
    """Which ``keep_every="auto"`` decides by."""
    columns = getattr(backbone, "columns", ())
    return smallest_scales([column.alphas for column in columns]).clamp(min=MIN_SHORTCUT).tolist() if columns else []


def trained(strategy, backbone: dict, start: Path, part: slice = slice(None)) -> tuple[list[float], list[float]]:
    """The losses of three steps, and the shortcut scales before."""
    torch.manual_seed(0)
    model = sharded.SmallDetector(copy.deepcopy(backbone))
    options = dict(dispatch_kwargs=dict(epoch_length=STEPS, max_epochs=1, max_iters=STEPS))
    schedule = dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=2)
    strategy.prepare(model, optim_wrapper=copy.deepcopy(OPTIM), param_scheduler=schedule, **options)
    strategy.load_checkpoint(str(start))
    if isinstance(strategy, ZeroStrategy):
        weights = torch.load(start)["state_dict"]
        expected = {name: clamped(value) if "alpha" in name else value for name, value in weights.items()}
        torch.testing.assert_close(dict(gathered(strategy.model.module)), expected, rtol=0, atol=0)
    found, before = [], scales(model.backbone)
    for step in range(STEPS):
        numbers = torch.rand(BATCH, 1, generator=torch.Generator().manual_seed(step))[part]
        data = dict(inputs=list(numbers), data_samples=[BaseDataElement()] * len(numbers))
        found.append(strategy.model.train_step(data, optim_wrapper=strategy.optim_wrapper)["loss"].item())
        for scheduler in strategy.param_schedulers:
            scheduler.step()
    return found, before


def in_parts(rank: int, folder: str, cases: list[tuple[int, dict]]) -> list[tuple[list[float], list[float]]]:
    os.environ["LOCAL_RANK"] = str(rank)
    found, ranks = [], torch.distributed.get_world_size()
    part = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    for i, (stage, backbone) in enumerate(cases):
        for name in [name for name, cls in OPTIMIZERS.module_dict.items() if "deepspeed" in cls.__module__]:
            OPTIMIZERS.module_dict.pop(name)  # mmengine registers them with each strategy
        strategy = ZeroStrategy(zero_optimization=zero(stage), work_dir=folder)
        found.append(trained(strategy, backbone, Path(folder, f"{i}.start"), part))
        strategy.save_checkpoint(f"{folder}/{i}", extra_ckpt={})
    return found


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([(stage, AUTO) for stage in STAGES], id="auto"),
        pytest.param([case for case in CASES if case[1] is not AUTO], id="others", marks=pytest.mark.long),
    ],
)
def test_divided_model_trains_as_the_whole_one(cases, tmp_path):
    for i, (_, backbone) in enumerate(cases):
        write_start(backbone, tmp_path / f"{i}.start")
    found = in_processes(2, tmp_path, in_parts, str(tmp_path), cases)
    for i, case in enumerate(cases):
        strategy = SingleDeviceStrategy(work_dir=str(tmp_path))
        whole, before = trained(strategy, case[1], tmp_path / f"{i}.start")
        (losses, here), (others, there) = (rank[i] for rank in found)
        assert [sum(pair) / 2 for pair in zip(losses, others, strict=True)] == pytest.approx(whole, rel=1e-5), case
        assert here == there == before, case
        parts = torch.load(tmp_path / str(i) / "weights.pth", weights_only=False)["state_dict"]
        expected = dict(strategy.model.state_dict())
        torch.testing.assert_close(parts, expected, rtol=0, atol=1e-5, msg=lambda text, case=case: f"{case}: {text}")


# ------------------------------------------------------------------------------------------------ the command, resuming
@HOOKS.register_module()
class Listener(Hook):
    """Lets an ``Interruption`` know where the training is."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if Recorder.trap:
            Recorder.trap("training")


def write_config(folder: Path, stage: int) -> Path:
    config = sharded.write_config(folder)
    text = config.read_text().replace("accumulative_counts=2", "accumulative_counts=1").replace("Trap", "Listener")
    config.write_text(text)
    own = folder / "zero.py"
    own.write_text(f"_base_ = [{str(config)!r}, {str(ROOT / f'configs/_base_/zero{stage}.py')!r}]\n")
    return own


def run(count: int, config: Path, work_dir: Path, *arguments, before=None) -> str:
    return sharded.run(count, config, work_dir, "--on-nan", "stop", *arguments, before=before)


def final(work_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / "epoch_6.pth" / "weights.pth", weights_only=False)["state_dict"]


@pytest.fixture(scope="module", params=STAGES)
def divided(request, tmp_path_factory) -> tuple[Path, Path]:
    """The config and the work dir of a training over two processes, which nothing interrupts."""
    folder = tmp_path_factory.mktemp("zero")
    config, work_dir = write_config(folder, request.param), folder / "work"
    run(2, config, work_dir)
    return config, work_dir


def test_command_trains_as_without_deepspeed(divided, tmp_path):
    config, work_dir = divided
    run(2, config.with_name("config.py"), tmp_path / "whole")
    (parts,), (whole,) = losses(work_dir), losses(tmp_path / "whole")
    assert list(parts) == [1, 2, 3, 4, 5, 6]
    assert parts == pytest.approx(whole, rel=1e-5)
    assert sharded.evaluations(work_dir) == pytest.approx(sharded.evaluations(tmp_path / "whole"), rel=1e-4)
    torch.testing.assert_close(final(work_dir), sharded.final(tmp_path / "whole"), rtol=0, atol=1e-6)


def test_stopped_training_goes_on_with_as_many_processes(divided, tmp_path):
    config, work_dir = divided
    stop = Interruption("training", number=4, act=partial(send, signal.SIGTERM))
    output = run(2, config, tmp_path / "work", before=stop.listen)
    assert "stopped by SIGTERM after iteration 4 of 6" in output
    output = run(1, config, tmp_path / "work", "--resume", before=lambda: None)
    assert "is of a training with DeepSpeed by 2 processes, this one is with it by 1; go on likewise" in output
    run(2, config, tmp_path / "work", "--resume")
    torch.testing.assert_close(final(tmp_path / "work"), final(work_dir), rtol=0, atol=0)
    assert not list((tmp_path / "work").glob("stopped*"))


def test_checkpoint_is_read_as_any_other(divided, tmp_path, fail):
    config, work_dir = divided
    checkpoint = work_dir / "epoch_6.pth"
    verb("test", work_dir / "zero.py", checkpoint, "--work-dir", tmp_path / "test")
    (metrics,) = (tmp_path / "test").glob("*/*.json")
    assert json.loads(metrics.read_text())["mAP"] == pytest.approx(sharded.evaluations(work_dir)[-1], rel=1e-4)
    verb("export-weights", checkpoint, "-o", tmp_path / "backbone.pth")
    exported = torch.load(tmp_path / "backbone.pth")["state_dict"]
    assert all(torch.equal(value, final(work_dir)[f"backbone.{name}"]) for name, value in exported.items())
    message = fail("train", config.with_name("config.py"), "--work-dir", work_dir, "--resume")
    assert "is of a training with DeepSpeed by 2 processes, this one is without it by 1; go on likewise" in message


def test_weights_of_another_training_start_one(divided, tmp_path):
    config, work_dir = divided
    start = ("--cfg-options", f"load_from={work_dir / 'epoch_6.pth' / 'weights.pth'}", "train_dataloader.batch_size=4")
    run(2, config, tmp_path / "zero", *start)
    run(2, config.with_name("config.py"), tmp_path / "whole", *start)
    assert losses(tmp_path / "zero")[0] == pytest.approx(losses(tmp_path / "whole")[0], rel=1e-5)
