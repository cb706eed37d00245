"""Carries out the trainings of a comparison; a finished one is not repeated, and a killed one goes on."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner as HostRunner

from backbones.checkpoints import read_checkpoint
from backbones.config.lookup import model_settings, read_config
from backbones.errors import BadLossError
from backbones.info.model import backbone_parts, build
from backbones.papers._runs import Comparison, Result, Run
from backbones.pictures.curves import read_runs, split
from backbones.usage import UsageError

Train = Callable[[Sequence[str]], None]  # the verb ``train``, with its arguments


@dataclass(frozen=True)
class Runner:
    """Runs and measures.

    Attributes:
        train: The verb.
        folder: Folder of the runs of this comparison.
        data_root: Folder of the data.
        options: Options that every run gets behind its own, as ``KEY=VALUE``.
    """

    train: Train
    folder: Path
    data_root: str
    options: Sequence[str]

    def results(self, comparison: Comparison, seeds: Sequence[int]) -> Iterator[list[Result]]:
        """The results of all runs so far, after each seed."""
        done: list[Result] = []
        for seed in seeds:
            done += [self.result(comparison, run, seed) for run in comparison.runs()]
            yield done

    def result(self, comparison: Comparison, run: Run, seed: int) -> Result:
        """Train and measure, or read what an earlier start has measured.

        Returns:
            ``series``, ``x``, ``seed``, ``command`` (the training's), ``seconds`` (processor time of the training since
            its last start), ``parameters`` and ``macs`` of the backbone, ``curve`` (epoch, metric), ``loss`` (the last
            one), ``diverged`` (the error of a loss that is not finite, or None), and with a ``measure`` its numbers
            before (``start``) and after the training (``end``).
        """
        work_dir = self.folder / run.folder / f"seed-{seed}"
        arguments = self.arguments(run, seed, work_dir)
        command = f"densebackbones train {shlex.join(arguments)}"
        claim(work_dir, command)
        file = work_dir / "result.json"
        if file.is_file():
            return json.loads(file.read_text())
        print(command, flush=True)
        start = time.process_time()
        diverged = self.trained(arguments, resume=(work_dir / "last_checkpoint").is_file())
        result: Result = dict(series=run.series, x=run.x, seed=seed, command=command, diverged=diverged)
        result["seconds"] = time.process_time() - start
        result |= learnt(work_dir, comparison.metric)
        result |= measured(comparison, work_dir, run.config, seed)
        print(f"    {result['seconds']:.0f} s of processor time, {comparison.metric} {final(result):.3g}", flush=True)
        write(file, result)
        return result

    def arguments(self, run: Run, seed: int, work_dir: Path) -> list[str]:
        """Those of the verb ``train``."""
        weights = {key: self.checkpoint(series, seed) for key, series in run.weights.items()}
        name = f"{run.folder}-seed-{seed}"
        # Logs are kept by these names in a process; under an earlier run's, they would go into its folder.
        always = {"experiment_name": name, "visualizer.name": name, "log_level": "WARNING"}
        options = {**run.options, **weights, **always, "randomness.seed": seed}
        given = [f"{key}={str(value).replace(' ', '')}" for key, value in options.items()]
        folders = ["--data-root", self.data_root, "--work-dir", str(work_dir)]
        return [f"densebackbones::{run.config}", *folders, "--cfg-options", *given, *self.options]

    def checkpoint(self, series: str, seed: int) -> str:
        """The last checkpoint of an earlier run, which has no x."""
        return last_checkpoint(self.folder / Run(series, None, "", {}).folder / f"seed-{seed}")

    def trained(self, arguments: Sequence[str], resume: bool) -> str | None:
        """Train; returns the error of a loss that is not finite."""
        try:
            self.train([*arguments, *(["--resume"] if resume else [])])
        except UsageError as error:
            if not isinstance(error.__cause__, BadLossError):
                raise
            return str(error.__cause__)
        return None


def claim(work_dir: Path, command: str) -> None:
    """Note a run's command in its work dir.

    Raises:
        UsageError: if another run is there.
    """
    file = work_dir / "command.txt"
    if file.is_file() and (other := file.read_text()) != command:
        raise UsageError(
            f"{work_dir} holds a run with other settings ({other}); remove that folder, or choose another --work-dir"
        )
    if not file.is_file():
        work_dir.mkdir(parents=True, exist_ok=True)
        file.write_text(command)


def write(file: Path, content: Any) -> None:
    """Write JSON; a kill leaves no half of it."""
    beside = file.with_name(f"{file.name}.partial")
    beside.write_text(json.dumps(content, indent=1) + "\n")
    beside.replace(file)


def last_checkpoint(work_dir: Path) -> str:
    """The path that mmengine noted."""
    return (work_dir / "last_checkpoint").read_text().strip()


def learnt(work_dir: Path, metric: str) -> Result:
    """The metric over the epochs, and the last loss, from the log of a run."""
    training, evaluations = split(read_runs(work_dir))
    curve = {record["step"]: record[metric] for record in evaluations if metric in record}
    return dict(curve=sorted(curve.items()), loss=training[-1]["loss"] if training else None)


def final(result: Result) -> float:
    """The metric after the last epoch; NaN for a run without one."""
    return result["curve"][-1][1] if result["curve"] else float("nan")


def measured(comparison: Comparison, work_dir: Path, config: str, seed: int) -> Result:
    """Size of the backbone, and the comparison's own measures of the network before and after the training."""
    cfg = read_config(work_dir / config)
    loader: Any = HostRunner.build_dataloader(cfg.get("val_dataloader") or cfg.train_dataloader)
    size = tuple(next(iter(loader))["inputs"][0].shape[-2:])
    whole = backbone_parts(build(cfg.model.backbone), size)[0][-1]
    result: Result = dict(parameters=whole.parameters, macs=whole.macs)
    if comparison.measure is None:
        return result
    torch.manual_seed(seed)
    model: Any = MODELS.build(model_settings(cfg))
    model.init_weights()
    prepared = [model.data_preprocessor(batch) for batch in loader]
    images = torch.cat([batch["inputs"] for batch in prepared])
    samples = [sample for batch in prepared for sample in batch["data_samples"]]
    result["start"] = comparison.measure(model.eval(), images, samples)
    if (work_dir / "last_checkpoint").is_file():  # else the training has diverged before the first
        model.load_state_dict(read_checkpoint(last_checkpoint(work_dir))[0]["state_dict"])
    result["end"] = comparison.measure(model.eval(), images, samples)
    return result
