"""``train --deterministic``: the same losses bit for bit, in one process and in two."""

import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from small_run import Interruption, records, send, trained, write_config
from test_tools import CONFIG, options
from tool_runs import TOOLS, environment, losses

SHORT = {"train_dataloader.dataset.indices": 4, "train_cfg.max_epochs": 2, "train_cfg.val_interval": 9}


def test_two_runs_have_the_same_losses(tmp_path):
    """Without a seed in the command, with another number of data-loading workers, and resumed."""
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("randomness = dict(seed=3)", ""))
    workers = ["--cfg-options", "train_dataloader.num_workers=2"]
    stop = Interruption("training", number=6, act=partial(send, signal.SIGTERM))
    for name, arguments, before in [("a", [], None), ("b", workers, stop.listen), ("b", ["--resume"], None)]:
        status, output = trained(config, tmp_path / name, "--deterministic", *arguments, before=before)
        assert status == 0, output
    one, two = records(tmp_path / "a"), records(tmp_path / "b")
    assert len([record for record in one if "loss" in record]) == 12
    assert one == two


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_runs_in_processes_have_the_same_losses(processes, data, tmp_path):
    for name in ("a", "b"):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        script = [TOOLS / "train.py", CONFIG, "--data-root", data, "--work-dir", tmp_path / name]
        command = [*launch, *script, "--launcher", "pytorch", "--deterministic", *options(**SHORT)]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment(), timeout=600)
        assert result.returncode == 0, result.stderr
    (one,), (two,) = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert one
    assert one == two


@HOOKS.register_module()
class Undetermined(Hook):
    """Calls an operator that PyTorch refuses in this mode, as there are many on GPUs."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))


def test_an_operator_without_a_deterministic_form_is_named(tmp_path):
    config = write_config(tmp_path)
    config.write_text(f"{config.read_text()}\ncustom_hooks.append(dict(type='Undetermined'))\n")
    status, output = trained(config, tmp_path / "run", "--deterministic")
    assert (status, "error: --deterministic: put_" in output) == (2, True), output
