"""Long trainings do not grow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soak
from tool_runs import environment

BOUNDED = ("descriptors", "threads", "tensors")


def run(subject: str, steps: int, folder: Path) -> list[dict[str, int]]:
    out = folder / f"{subject}.json"
    command = [sys.executable, "-W", "ignore", soak.__file__, subject, "--steps", str(steps), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=1800)
    assert result.returncode == 0, result.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("subject", soak.SUBJECTS)
@pytest.mark.long
def test_nothing_grows_in_3000_steps(subject, tmp_path):
    samples = run(subject, 3000, tmp_path)
    assert soak.growth(samples, "bytes") < soak.ROOM
    assert {key: soak.growth(samples, key) for key in BOUNDED} == dict.fromkeys(BOUNDED, 0)


@pytest.mark.slow
def test_nothing_grows_in_300_steps(tmp_path):
    samples = run("revcol-3", 300, tmp_path)
    assert soak.growth(samples, "bytes") < 2 * soak.ROOM
    assert {key: soak.growth(samples, key) for key in BOUNDED} == dict.fromkeys(BOUNDED, 0)


def test_growth_is_seen():
    """A leak of a hundredth in each of the samples after the warm-up."""
    level = [dict(bytes=100)] * 100
    assert soak.growth(level, "bytes") == 0
    assert soak.growth([dict(bytes=100 + i) for i in range(100)], "bytes") > 10 * soak.ROOM
