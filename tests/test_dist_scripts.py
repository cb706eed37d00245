"""tools/dist_*.sh: real processes, one of which dies."""

import subprocess
import sys
import time

import pytest
from small_run import records, write_config
from tool_runs import ROOT, TOOLS, environment


def script(name: str, *arguments: object, **changes: object) -> subprocess.CompletedProcess:
    path = f"{ROOT}:{ROOT / 'tests'}"
    env = environment(PYTHONPATH=path, PYTHON=sys.executable, **changes)
    command = ["bash", str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.slow
def test_process_that_dies_ends_the_others_and_all_go_on_from_the_last_checkpoint(tmp_path):
    config, work = write_config(tmp_path, "iterations"), tmp_path / "work"
    begun = time.monotonic()
    result = script("dist_train.sh", config, 2, "--work-dir", work, SMALL_RUN_DYING_RANK=1, MAX_RESTARTS=1)
    assert result.returncode == 0, result.stdout + result.stderr
    assert time.monotonic() - begun < 60  # the others wait for the dead one in the sum of the gradients
    assert "RuntimeError: this process dies" in result.stderr
    losses = [(record["iter"], record["loss"]) for record in records(work) if "loss" in record]
    again = losses[6][0]  # of the last checkpoint
    assert 0 < again < 6
    assert [number for number, _ in losses] == [*range(6), *range(again, 12)]
    assert losses[again:6] == losses[6 : 12 - again]


@pytest.mark.parametrize("name", ["dist_train.sh", "dist_test.sh"])
def test_missing_arguments_are_named(name):
    assert "CONFIG is missing; see the head of this file" in script(name).stderr
