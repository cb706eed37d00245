"""Kills, signals, full disks and bad losses: the run goes on as if nothing had happened, or names what did."""

import functools
import multiprocessing
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from small_run import Interruption, die_half_way, fill_disk, records, send, trained, write_config
from tool_runs import ROOT, environment

from backbones.cli._checkpoints import find_last_checkpoint
from backbones.engine.safe_checkpoints import LateRemoval, SafeCheckpointHook, check, keep_safe
from backbones.errors import NotSavedError

SECOND, FIRST = "[ei]*_[28].pth", "[ei]*_[14].pth"  # checkpoints: epoch_2 or iter_8, and epoch_1 or iter_4
KILLS = {  # loop; event, pattern of file names, number of the event
    "training": ("iterations", "training", "*", 7),
    "evaluating": ("epochs", "evaluating", "*", 9),
    "writing": ("epochs", "writing", SECOND, 1, die_half_way),
    "written, not in its place": ("iterations", "renaming", SECOND, 1),
    "in its place, not the last": ("epochs", "renaming", "last_checkpoint", 3),
    "the last, beside the one before": ("iterations", "removing", FIRST, 1),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], tuple[Path, list[dict]]]:
    """For a kind of loop, config of a run and what it records when nothing interrupts it."""

    @functools.cache
    def whole_(loop: str) -> tuple[Path, list[dict]]:
        folder = tmp_path_factory.mktemp(loop)
        config = write_config(folder, loop)
        status, output = trained(config, folder / "whole")
        assert status == 0, output
        last = check(folder / "whole" / ("epoch_3.pth" if loop == "epochs" else "iter_12.pth"))
        assert last["optimizer"]["loss_scaler"]["scale"] < 2.0**127  # it overflowed, which is no fault
        assert "left out" not in output
        return config, records(folder / "whole")

    return whole_


def assert_same(found: list[dict], expected: list[dict]) -> None:
    """Whatever was recorded, maybe twice, is what the uninterrupted run recorded."""
    assert [record for record in found if record not in expected] == []
    assert [record for record in expected if record not in found] == []


# ---------------------------------------------------------------------------------------------------------------- kills
def kill(config: Path, work_dir: Path, how: Interruption) -> None:
    """Resume a run, or start it, and kill it; what it leaves is whole."""
    status, output = trained(config, work_dir, "--resume", before=how.listen)
    assert status in (-signal.SIGKILL, -signal.SIGXFSZ), output
    checkpoints = [path for path in work_dir.glob("*.pth") if "optimizer" in check(path)]
    assert (find_last_checkpoint(str(work_dir)) is None) == (not checkpoints)


@pytest.mark.parametrize("moment", KILLS)
def test_killed_run_goes_on_as_if_uninterrupted(moment, whole, tmp_path):
    loop, *how = KILLS[moment]
    config, expected = whole(loop)
    kill(config, tmp_path / "work", Interruption(*how))
    status, output = trained(config, tmp_path / "work", "--resume")
    assert status == 0, output
    assert_same(records(tmp_path / "work"), expected)
    kept = sorted(path.name for path in (tmp_path / "work").glob("*.pth") if "best" not in path.name)
    assert kept in (["epoch_3.pth"], ["iter_12.pth"])


def kill_worker() -> None:
    """As the kernel does when the memory is used up."""
    multiprocessing.active_children()[0].kill()
    signal.pause()


def test_killed_data_worker_is_named(tmp_path):
    config, work_dir = write_config(tmp_path, workers=1), tmp_path / "work"
    killed = Interruption("training", number=6, act=kill_worker)
    status, output = trained(config, work_dir, before=killed.listen)
    assert status == 2, output
    assert "Traceback" not in output
    assert re.search(r"DataLoader worker \(pid \d+\) is killed by signal: Killed\. Most often the memory", output)
    assert re.search(r"last checkpoint, .*epoch_1\.pth, is whole; --resume goes on", output)
    assert trained(config, work_dir, "--resume")[0] == 0


def test_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    """As a crash of the machine, or another program, may leave it."""
    for step in (1, 2, 3):
        torch.save(dict(meta=dict(epoch=step, iter=4 * step), optimizer={}), tmp_path / f"epoch_{step}.pth")
    torch.save(dict(meta=dict(epoch=3, iter=12)), tmp_path / "best_mAP_epoch_3.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_3.pth"))
    assert find_last_checkpoint(str(tmp_path)) == str(tmp_path / "epoch_3.pth")
    whole = (tmp_path / "epoch_3.pth").read_bytes()
    (tmp_path / "epoch_3.pth").write_bytes(whole[:-100])
    assert find_last_checkpoint(str(tmp_path)) == str(tmp_path / "epoch_2.pth")
    assert "epoch_3.pth, which does not exist or is not whole; going on from" in capsys.readouterr().err
    changed = whole.replace(b"epoch", b"epoxh")  # the right length
    (tmp_path / "epoch_3.pth").write_bytes(changed)
    assert find_last_checkpoint(str(tmp_path)) == str(tmp_path / "epoch_2.pth")
    with pytest.raises(NotSavedError, match="epoch_2.pth is of another step"):
        check(tmp_path / "epoch_2.pth", dict(epoch=3))


def test_no_code_of_a_checkpoint_runs_when_it_is_read_back(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    torch.save(dict(meta=dict(epoch=4, iter=16), evil=Evil()), tmp_path / "epoch_4.pth")
    assert check(tmp_path / "epoch_4.pth")["meta"]["iter"] == 16
    assert not (tmp_path / "ran").exists()


def test_file_written_anew_is_not_removed(tmp_path):
    for name in "ab":
        (tmp_path / name).touch()
    backend = LateRemoval(LocalBackend())
    for name in "ab":
        backend.remove(str(tmp_path / name))
    backend.remove_now(new=[tmp_path / "a"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.long
@pytest.mark.parametrize("loop", ["epochs", "iterations"])
def test_run_survives_thirty_kills(loop, tmp_path):
    config, work_dir = write_config(tmp_path, loop, length=40), tmp_path / "work"
    assert trained(config, tmp_path / "whole")[0] == 0
    moments = random.Random(13)
    for _ in range(30):
        event = moments.choice(["training", "evaluating", "writing", "renaming", "removing"])
        name, act = ("*.pth", die_half_way) if event == "writing" else ("*", None)
        kill(config, work_dir, Interruption(event, name, moments.randint(1, 8), act))
    status, output = trained(config, work_dir, "--resume")
    assert status == 0, output
    assert_same(records(work_dir), records(tmp_path / "whole"))


# -------------------------------------------------------------------------------------------------------------- signals
@pytest.mark.parametrize(
    ("loop", "event", "number", "name", "done"),
    [("epochs", "training", 6, "SIGTERM", 6), ("iterations", "evaluating", 9, "SIGUSR1", 10)],
)
def test_signal_saves_and_ends_with_status_0(loop, event, number, name, done, whole, tmp_path):
    config, expected = whole(loop)
    stop = Interruption(event, number=number, act=partial(send, signal.Signals[name]))
    status, output = trained(config, tmp_path / "work", before=stop.listen)
    assert status == 0, output
    path = tmp_path / "work" / f"stopped_iter_{done}.pth"
    assert f"stopped by {name} after iteration {done} of 12, saved as {path}; to go on, add --resume" in output
    status, output = trained(config, tmp_path / "work", "--resume")
    assert status == 0, output
    assert_same(records(tmp_path / "work"), expected)
    assert not path.exists()  # the regular checkpoints have taken over


def test_time_limit_does_the_same(whole, tmp_path):
    config, expected = whole("iterations")
    status, output = trained(config, tmp_path / "work", "--time-limit", "00:00")
    assert status == 0, output
    assert "stopped by the time limit after iteration 0 of 12" in output
    assert trained(config, tmp_path / "work", "--resume")[0] == 0
    assert_same(records(tmp_path / "work"), expected)


def test_time_limit_is_a_time(tmp_path):
    status, output = trained(tmp_path / "none.py", tmp_path / "work", "--time-limit", "90")
    assert (status, "90 is no time HH:MM" in output) == (2, True)


@pytest.mark.long
def test_processes_stop_and_leave_batches_out_together(tmp_path):
    """Two processes; only one has the bad losses, and only one hears the signal."""
    config = write_config(tmp_path, bad=(2, 4))  # one of them where an update is due
    environment_ = environment(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}", SMALL_RUN_BAD_RANK=1)

    def train(work_dir: Path, *arguments: str, **changes: str) -> str:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29617"]
        tool = [str(ROOT / "tools" / "train.py"), str(config), "--launcher", "pytorch", "--work-dir", str(work_dir)]
        command = [*launch, *tool, "--on-nan", "skip", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env={**environment_, **changes}, timeout=120)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    assert "batch left out: the loss of iteration 3 is not finite" in train(tmp_path / "whole")
    output = train(tmp_path / "work", SMALL_RUN_STOP_RANK="1")
    assert output.count("stopped by another process after iteration") == 1
    train(tmp_path / "work", "--resume")
    whole, found = records(tmp_path / "whole"), records(tmp_path / "work")
    assert len(found) == len(whole)
    for record, expected in zip(sorted(found, key=str), sorted(whole, key=str), strict=True):
        assert list(record) == list(expected)
        for key in record:
            assert record[key] == pytest.approx(expected[key], rel=1e-5, nan_ok=True)


# ---------------------------------------------------------------------------------------------- disks, folders and data
def test_full_disk_is_named_and_the_earlier_checkpoint_intact(whole, tmp_path):
    config, expected = whole("epochs")
    full = Interruption("writing", SECOND, act=fill_disk)
    status, output = trained(config, tmp_path / "work", before=full.listen)
    assert status == 2, output
    last = find_last_checkpoint(str(tmp_path / "work"))
    named = rf"error: no checkpoint .* into {tmp_path}/work: .*File too large.*The last checkpoint, {last}, is whole"
    assert re.search(named, output), output
    assert "Traceback" not in output
    assert not (tmp_path / "work" / ".partial").exists()
    assert last.endswith("/epoch_1.pth")
    assert trained(config, tmp_path / "work", "--resume")[0] == 0
    assert_same(records(tmp_path / "work"), expected)


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A work dir on a disk with room for three checkpoints."""
    (folder := tmp_path / "work").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_disk_that_becomes_full_and_larger(small_disk, whole):
    config, expected = whole("epochs")
    status, output = trained(config, small_disk)
    assert status == 2, output
    last = find_last_checkpoint(str(small_disk))
    assert re.search(rf"error: .*No space left on device.*The last checkpoint, {last}, is whole", output), output
    assert "Traceback" not in output
    assert not (small_disk / ".partial").exists()
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    assert trained(config, small_disk, "--resume")[0] == 0
    assert_same(records(small_disk), expected)


def test_folder_that_cannot_be_written_is_named(whole, tmp_path):
    status, output = trained(whole("epochs")[0], tmp_path / "work", "--work-dir", "/sys/work")
    assert status == 2, output
    assert re.search(r"error: .*'?/sys/work", output)
    assert "Traceback" not in output


def make_read_only(folder: Path) -> None:
    """As a file system does after a fault of its disk; files that are open stay writable."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def test_folder_that_becomes_read_only_is_named_and_the_earlier_checkpoint_intact(small_disk, whole):
    config, expected = whole("epochs")
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    stop = Interruption("training", number=6, act=partial(make_read_only, small_disk))
    status, output = trained(config, small_disk, before=stop.listen)
    subprocess.run(["umount", "--lazy", small_disk], check=True)
    assert status == 2, output
    last = find_last_checkpoint(str(small_disk))
    assert re.search(rf"error: .*Read-only file system.*The last checkpoint, {last}, is whole", output), output
    assert "Traceback" not in output
    assert last.endswith("/epoch_1.pth")
    assert trained(config, small_disk, "--resume")[0] == 0
    assert_same(records(small_disk), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_vanishes_are_named(workers, tmp_path):
    config = write_config(tmp_path, workers=workers)
    gone = Interruption("training", number=6, act=partial(shutil.rmtree, tmp_path / "images"))
    status, output = trained(config, tmp_path / "work", before=gone.listen)
    assert status == 2, output
    assert re.search(rf"error: .*No such file or directory: '{tmp_path}/images/\d.jpg'.*epoch_\d.pth, is whole", output)
    assert "Traceback" not in output


# ----------------------------------------------------------------------------------------------------------- bad losses
def test_bad_loss_is_named_before_it_reaches_the_weights(tmp_path):
    status, output = trained(write_config(tmp_path, bad=(5,)), tmp_path / "work")
    assert status == 2, output
    images = rf"images: {tmp_path}/images/\d.jpg, {tmp_path}/images/\d.jpg\."
    assert re.search(rf"error: the loss of iteration 6 is not finite \(loss_b nan\); {images}", output)
    assert "Traceback" not in output
    assert [record["iter"] for record in records(tmp_path / "work") if "iter" in record] == [0, 1, 2, 3, 4]


def test_bad_losses_are_left_out_and_counted(tmp_path):
    config, work_dir = write_config(tmp_path, bad=(0, 5, 6)), tmp_path / "work"
    stop = Interruption("training", number=6, act=partial(send, signal.SIGTERM))
    _, before = trained(config, work_dir, "--on-nan", "skip", before=stop.listen)
    status, after = trained(config, work_dir, "--on-nan", "skip", "--resume")
    assert status == 0, after
    counts = re.findall(r"batch left out: the loss of iteration (\d+) .*\((\d) in all, (\d) in a row\)", before + after)
    assert counts == [("1", "1", "1"), ("6", "2", "1"), ("7", "3", "1")]
    *_, last = records(work_dir)
    assert torch.tensor(last["weights"]).isfinite().all()


def test_ten_bad_losses_in_a_row_stop_the_training(tmp_path):
    config = write_config(tmp_path, length=4, bad=tuple(range(3, 16)))
    status, output = trained(config, tmp_path / "work", "--on-nan", "skip")
    assert status == 2, output
    assert "error: the loss of iteration 13 is not finite" in output
    assert "10 batches in a row" in output


# -------------------------------------------------------------------------------------------------------------- configs
@pytest.mark.parametrize("own", [None, dict(type="CheckpointHookOfTheUser")], ids=["none", "another"])
def test_config_with_another_hook_or_none_keeps_it_and_can_be_stopped(own):
    cfg = Config(dict(default_hooks=dict(checkpoint=own)))
    keep_safe(cfg)
    assert cfg.default_hooks.checkpoint == own
    assert cfg.custom_hooks == [dict(type="SafeCheckpointHook", save_last=False)]


def test_best_checkpoint_is_chosen_by_the_main_metric():
    hook = SafeCheckpointHook(save_best="auto")
    choose = hook._main_metric
    assert choose({"aAcc": 0.9, "mIoU": 0.4}) == {"mIoU": 0.4}
    assert choose({"time": 1, "coco/bbox_mAP": 0.3, "coco/segm_mAP": 0.2}) == {"coco/bbox_mAP": 0.3}
    assert choose({"time": 1}) == {}  # no checkpoint
    hook._init_rule([None], ["mIoU"])  # as the first evaluation does
    assert choose({"aAcc": 0.9}) == {}
