"""Runs the scripts in tools/ as processes, and verbs of the command line in forked processes or in this one."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (what verbs import late is imported once, before the processes fork)
import numpy as np
import torch._dynamo  # noqa: F401
import torchvision  # noqa: F401
from mmengine.visualization import Visualizer

from backbones import cli

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
SITES = [Path(folder) for folder in sys.path if folder.endswith("-packages")]

_TRANSFORMS = "train_dataloader.dataset.pipeline.3.transforms"
MULTISCALE = {  # options: the multi-scale training of the COCO configs on small images
    f"{_TRANSFORMS}.0.0.scales": "[(96,96),(128,128)]",
    f"{_TRANSFORMS}.1.0.scales": "[(128,128)]",
    f"{_TRANSFORMS}.1.1.crop_size": "(64,96)",
    f"{_TRANSFORMS}.1.2.scales": "[(96,96),(128,128)]",
}


def command(tool: str, *arguments) -> list[str]:
    return [sys.executable, str(TOOLS / f"{tool}.py"), *map(str, arguments)]


def environment(**changes: object) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in changes.items()}}


def fork(verb: str, *arguments, stdout: Path, stderr: Path, before: Callable[[], None] | None = None):
    """Start a verb in a process forked from this one, which saves the time of the imports.

    Args:
        verb: See ``cli.run``.
        arguments: Of the verb.
        stdout: File that takes the output.
        stderr: File that takes the errors; may be the same.
        before: Called in the process before the verb runs.
    """

    def child() -> None:
        for number, path in enumerate((stdout, stderr), 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        warnings.simplefilter("default")  # not pytest's
        forget_visualizers()
        np.random.seed()  # noqa: NPY002  (as of a process that is not forked; mmengine draws a seed from this state)
        if before:
            before()
        sys.exit(cli.run(verb, list(map(str, arguments))))

    process = multiprocessing.get_context("fork").Process(target=child)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, none of which the child needs
        process.start()
    return process


def forget_visualizers(cls: type[Visualizer] = Visualizer) -> None:
    """Forget mmengine's visualizers of earlier runs in this process, which later runs of their names would take."""
    cls._instance_dict.clear()
    for child in cls.__subclasses__():
        forget_visualizers(child)


def run(verb: str, *arguments) -> subprocess.CompletedProcess:
    """Runs a verb in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        process = fork(verb, *arguments, stdout=stdout, stderr=stderr)
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{verb} has not ended after 300 s: {stderr.read_text()}")
        return subprocess.CompletedProcess(arguments, process.exitcode, stdout.read_text(), stderr.read_text())


def run_without(package: str, tool: str, *arguments) -> subprocess.CompletedProcess:
    """Runs a script in an environment without a package: a folder with links to all others."""
    with tempfile.TemporaryDirectory() as folder:
        for entry in [entry for site in SITES for entry in site.iterdir() if package not in entry.name]:
            if not (link := Path(folder, entry.name)).exists():
                link.symlink_to(entry)
        python, *given = command(tool, *arguments)
        return subprocess.run(
            [python, "-S", *given], capture_output=True, text=True, env=environment(PYTHONPATH=folder), timeout=300
        )


def verb(name: str, *arguments) -> None:
    """Runs a verb in this process; it must succeed."""
    assert cli.run(name, list(map(str, arguments))) == 0


def losses(work_dir: Path) -> list[dict[int, float]]:
    """{iteration: loss} of each run in a work dir, oldest first."""
    runs = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        records = map(json.loads, file.read_text().splitlines())
        runs.append({record["step"]: record["loss"] for record in records if "loss" in record})
    return runs
