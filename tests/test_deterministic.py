"""``train --deterministic``: the same losses bit for bit, in one process and in two."""

import subprocess
import sys

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from test_tools import CONFIG, options
from tool_runs import TOOLS, environment, losses, verb

SHORT = {"train_dataloader.dataset.indices": 4, "train_cfg.max_epochs": 2, "train_cfg.val_interval": 9}


@pytest.fixture
def _as_before():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.slow
def test_two_runs_have_the_same_losses(data, tmp_path, _as_before):
    """Without a seed in the command."""
    for name in ("deterministic-a", "deterministic-b"):
        arguments = ("--data-root", data, "--work-dir", tmp_path / name, "--deterministic")
        verb("train", CONFIG, *arguments, *options(**SHORT, experiment_name=name, **{"visualizer.name": name}))
        assert torch.are_deterministic_algorithms_enabled()
    (one,), (two,) = losses(tmp_path / "deterministic-a"), losses(tmp_path / "deterministic-b")
    assert len(one) == 4
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


@pytest.mark.long
def test_an_operator_without_a_deterministic_form_is_named(data, tmp_path, fail, _as_before):
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = {str(CONFIG)!r}\ncustom_hooks = [dict(type='Undetermined')]\n")
    changes = options(**SHORT, experiment_name="undetermined", **{"visualizer.name": "undetermined"})
    message = fail("train", config, "--data-root", data, "--work-dir", tmp_path / "run", "--deterministic", *changes)
    assert "put_" in message
