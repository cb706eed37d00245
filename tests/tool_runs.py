"""Runs the tools: as processes of their own, or as modules."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"


def command(tool: str, *arguments) -> list[str]:
    return [sys.executable, str(TOOLS / f"{tool}.py"), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(tool: str, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(command(tool, *arguments), capture_output=True, text=True, env=environment(), timeout=300)


def run_without(module: str, tool: str, *arguments) -> subprocess.CompletedProcess:
    """Runs a tool as if a package was not installed."""
    script = (
        f"import runpy, sys; sys.modules[{module!r}] = None; sys.path.insert(0, {str(TOOLS)!r}); "
        f"sys.argv[0] = {tool!r}; runpy.run_path({str(TOOLS / f'{tool}.py')!r}, run_name='__main__')"
    )
    given = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(given, capture_output=True, text=True, env=environment(), timeout=300)


def losses(work_dir: Path) -> list[dict[int, float]]:
    """{iteration: loss} of each run in a work dir, oldest first."""
    runs = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        records = map(json.loads, file.read_text().splitlines())
        runs.append({record["step"]: record["loss"] for record in records if "loss" in record})
    return runs


def load(tool: str) -> ModuleType:
    """A tool as a module; its neighbours are found as they are when it is run as a script."""
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location(f"tools_{tool}", TOOLS / f"{tool}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module
