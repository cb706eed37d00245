"""Runs the scripts in tools/ as processes, and verbs of the command line in this process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

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


def run(tool: str, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(command(tool, *arguments), capture_output=True, text=True, env=environment(), timeout=300)


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
