"""A training of a second with all that a checkpoint must carry, by the real command in a process of its own.

It has a moving average of the weights, schedules by iteration and by epoch, a loss scaler whose scale overflows now
and then, gradients that accumulate over the ends of epochs, dropout, random augmentation, and evaluations.
"""

import fnmatch
import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from mmengine.dist import get_rank, master_only
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS
from mmengine.structures import BaseDataElement
from tool_runs import fork

from backbones.cli import train as _  # noqa: F401

if "RANK" in os.environ:  # on a machine without a GPU, mmengine only takes processes that know each other
    torch.distributed.init_process_group("gloo")

LIMIT = 100_000  # bytes: less than a checkpoint, more than any other file
CONFIG = """
custom_imports = dict(imports=["small_run"], allow_failed_imports=False)
default_scope = "mmengine"
model = dict(type="SmallModel", bad={bad})
train_dataloader = dict(
    dataset=dict(type="SmallPictures", root={root!r}),
    sampler=dict(type="{sampler}", shuffle=True),
    batch_size=2,
    num_workers={workers},
)
val_dataloader = dict(
    dataset=dict(type="SmallPictures", root={root!r}, noise=0), sampler=dict(type="DefaultSampler", shuffle=False)
)
val_evaluator = dict(type="SmallMetric")
val_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=0.05), accumulative_counts=3)
if not {bad}:
    optim_wrapper.update(type="AmpOnCpu", loss_scale=dict(init_scale=2.0**127, growth_interval=100))
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="CheckpointHook", max_keep_ckpts=1, by_epoch={by_epoch}, interval={interval}),
)
custom_hooks = [dict(type="EMAHook", momentum=0.2), dict(type="Recorder")]
randomness = dict(seed=3)
"""
LOOPS = {
    "epochs": """
train_cfg = dict(by_epoch=True, max_epochs={length}, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=5),
    dict(type="MultiStepLR", by_epoch=True, milestones=[2], gamma=0.5),
]
""",
    "iterations": """
train_cfg = dict(by_epoch=False, max_iters=4 * {length}, val_interval=5)
param_scheduler = dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=5)
""",
}


def write_config(folder: Path, loop: str = "epochs", length: int = 3, workers: int = 0, bad: tuple = ()) -> Path:
    """The config and the data of a run of ``length`` epochs of 4 iterations.

    With ``bad`` losses, see ``SmallModel``, it has no loss scaler, which would keep them from the weights.
    """
    by_epoch, root = loop == "epochs", folder / "images"
    root.mkdir()
    for i in range(8):
        (root / f"{i}.jpg").write_text(str(i / 8))
    settings = dict(by_epoch=by_epoch, interval=1 if by_epoch else 4, root=str(root), workers=workers, bad=bad)
    settings["sampler"] = "DefaultSampler" if by_epoch else "InfiniteSampler"
    config = folder / "small.py"
    config.write_text(CONFIG.format(**settings) + LOOPS[loop].format(length=length))
    return config


# ------------------------------------------------------------------------------------------------------ what is trained
@DATASETS.register_module()
class SmallPictures:
    """Eight numbers or fewer, with noise, in files with the names of images."""

    metainfo = {}

    def __init__(self, root: str, noise: float = 1, length: int = 8) -> None:
        self.root, self.noise, self.length = Path(root), noise, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        path = self.root / f"{index}.jpg"
        inputs = torch.tensor([float(path.read_text()) + self.noise * random.random()])
        return dict(inputs=inputs, data_samples=BaseDataElement(metainfo=dict(img_path=str(path))))


@MODELS.register_module()
class SmallModel(BaseModel):
    """A line with dropout and two losses.

    Args:
        bad: Iterations whose ``loss_b`` is NaN.
    """

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 8)
        self.register_buffer("padding", torch.zeros(LIMIT // 2))
        self.bad = bad

    def forward(self, inputs: list[torch.Tensor], data_samples: list[BaseDataElement], mode: str):
        values = self.line(torch.stack(inputs)).float()
        if mode == "predict":
            return [BaseDataElement(score=value.mean()) for value in values]
        dropped = torch.nn.functional.dropout(values, 0.5)
        loss_b = (dropped - 1).abs().mean()
        if Recorder.iteration in self.bad and get_rank() == int(os.environ.get("SMALL_RUN_BAD_RANK", 0)):
            loss_b = loss_b * float("nan")
        return {"loss_a": 8 * dropped.square().mean(), "loss_b": loss_b}


@METRICS.register_module()
class SmallMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [sample["score"].item() for sample in data_samples]

    def compute_metrics(self, results):
        return {"mAP": sum(results)}


@OPTIM_WRAPPERS.register_module()
class AmpOnCpu(AmpOptimWrapper):
    """mmengine's, which asks for a GPU."""

    def __init__(self, loss_scale: dict, **kwargs) -> None:
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler("cpu", **loss_scale)
        self.cast_dtype = None


@HOOKS.register_module()
class Recorder(Hook):
    """Writes the losses and the final weights beside the work dir, and lets ``trap`` know where the training is."""

    iteration = -1
    trap: Callable[[str], None] | None = None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        Recorder.iteration = runner.iter
        if self.trap:
            Recorder.trap("training")
        if runner.iter == 3 and str(get_rank()) == os.environ.get("SMALL_RUN_STOP_RANK"):
            send(signal.SIGTERM)
        dying = str(get_rank()) == os.environ.get("SMALL_RUN_DYING_RANK")
        if dying and runner.iter == 6 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            raise RuntimeError("this process dies")

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.trap:
            Recorder.trap("evaluating")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs["loss"].item() if "loss" in outputs else None  # a batch that was left out has none
        self.write(runner, {"iter": runner.iter, "batch": batch_idx, "loss": loss})

    def after_train(self, runner):
        (ema,) = (hook.ema_model for hook in runner.hooks if hasattr(hook, "ema_model"))
        weights = [*runner.model.state_dict().values(), *ema.module.state_dict().values()]
        self.write(runner, {"weights": [value.double().sum().item() for value in weights]})

    def after_val_epoch(self, runner, metrics=None):
        self.write(runner, {"evaluated": runner.iter, **metrics})

    @staticmethod
    @master_only
    def write(runner, record: dict) -> None:
        with open(f"{runner.work_dir}.records", "a") as file:
            file.write(json.dumps(record) + "\n")


def records(work_dir: Path) -> list[dict]:
    """What the runs of a work dir wrote, in order."""
    file = Path(f"{work_dir}.records")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


# --------------------------------------------------------------------------------------------------- what interrupts it
class Interruption:
    """Interrupts the process that trains, at the ``number``-th event.

    Args:
        event: ``training`` or ``evaluating``, whose events are iterations; ``writing``, ``renaming`` or ``removing``
            a file. The interruption comes before the event.
        name: Pattern of the file's name.
        number: Counted from 1.
        act: What happens; default: SIGKILL.
    """

    def __init__(self, event: str, name: str = "*", number: int = 1, act: Callable[[], object] | None = None) -> None:
        self.event, self.name, self.left = event, name, number
        self.act = act or partial(send, signal.SIGKILL)

    def __call__(self, event: str, name: str = "") -> None:
        if event == self.event and fnmatch.fnmatch(os.path.basename(name), self.name):
            self.left -= 1
            if self.left == 0:
                self.act()

    def listen(self) -> None:
        """Hear of every iteration, and of every file that this process writes, renames or removes."""

        def hear(event: str, arguments: tuple) -> None:
            if event == "open" and isinstance(arguments[1], str) and set("wxa") & set(arguments[1]):
                self("writing", str(arguments[0]))
            elif event == "os.rename":
                self("renaming", str(arguments[1]))
            elif event == "os.remove":
                self("removing", str(arguments[0]))

        sys.addaudithook(hear)
        Recorder.trap = self


def send(number: signal.Signals) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def fill_disk() -> None:
    """No file can become larger than a part of a checkpoint."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def die_half_way() -> None:
    """A file that becomes larger ends the process, which leaves its first part."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    fill_disk()


def train(config: Path, work_dir: Path, *arguments: str, before: Callable[[], None] | None = None, rank: int = 0):
    """Start ``train`` in a process forked from this one, which saves the time of the imports.

    Args:
        config: The config file.
        work_dir: The work dir; the output goes beside it, each rank's into a file of its own.
        arguments: More arguments of ``train``.
        before: Called in the process before it trains.
        rank: Of the process, among several.
    """

    output = Path(f"{work_dir}.output{rank or ''}")
    output.unlink(missing_ok=True)
    return fork("train", config, "--work-dir", work_dir, *arguments, stdout=output, stderr=output, before=before)


def trained(config: Path, work_dir: Path, *arguments: str, before: Callable[[], None] | None = None) -> tuple[int, str]:
    """Exit status of ``train``, negative for a signal, and its output."""
    process = train(config, work_dir, *arguments, before=before)
    process.join(120)
    return process.exitcode, Path(f"{work_dir}.output").read_text()
