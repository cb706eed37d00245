"""Images that break during training: replaced, the same way in a resumed run, until there are too many."""

import contextlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from mmengine.runner import Runner
from PIL import Image
from test_resumable import Losses  # also registers the model
from test_tools import options
from tool_runs import ROOT, run

from backbones.engine.broken_images import report_broken_images
from backbones.engine.interruptions import save_stopped
from backbones.engine.resumable import make_resumable
from backbones.errors import BrokenImagesError

pytest.importorskip("mmcv")
import mmcv.transforms  # noqa: F401  (registers LoadImageFromFile)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*has no metainfo"),  # mmengine, of itself
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
]
NUMBER = 200  # images: two broken ones are 1 %


@DATASETS.register_module()
class PicturesOfAFolder(BaseDataset):
    def load_data_list(self):
        return [dict(img_path=str(path)) for path in sorted(Path(self.data_root).iterdir())]


@TRANSFORMS.register_module()
class NoisyMean:
    def __call__(self, results):
        return {"inputs": torch.tensor([results["img"].mean() / 255 + np.random.rand()]).float()}  # noqa: NPY002


def pictures(folder: Path, broken: int) -> Path:
    folder.mkdir()
    for i in range(NUMBER):
        Image.new("RGB", (8, 8), (i, 50, 50)).save(folder / f"{i:03}.png")
    for i in range(0, 20 * broken, 20):
        (folder / f"{i:03}.png").write_text("<!DOCTYPE html>")
    return folder


def make_runner(folder: Path, work_dir: Path, by_epoch: bool, workers: int, die_at: int = -1, resume: bool = False):
    dataset = dict(type="PicturesOfAFolder", data_root=str(folder), pipeline=[
        dict(type="LoadImageFromFile"), dict(type="NoisyMean")
    ])  # fmt: skip
    loop = dict(by_epoch=True, max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=20)
    cfg = Config(
        dict(
            model=dict(type="NoisyLine"),
            train_dataloader=dict(
                dataset=dict(type="RepeatDataset", times=1, dataset=dataset),
                sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
                batch_size=20,
                num_workers=workers,
                collate_fn=dict(type="default_collate"),
            ),
            train_cfg=loop,
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", by_epoch=by_epoch, interval=1 if by_epoch else 5)
            ),
            custom_hooks=[dict(type="Losses", die_at=die_at)],
            work_dir=str(work_dir),
            experiment_name=f"{work_dir.parent.name}-{work_dir.name}-{die_at}-{resume}",
            randomness=dict(seed=3),
            resume=resume,
            default_scope="mmengine",
        )
    )
    make_resumable(cfg)
    Losses.log = {}
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize(("by_epoch", "workers"), [(True, 2), (False, 0)], ids=["epochs, workers", "iterations"])
def test_broken_image_is_named_and_replaced_and_the_resumed_run_stays_the_same(by_epoch, workers, tmp_path):
    folder = pictures(tmp_path / "pictures", broken=2)

    def train(name: str, **kwargs) -> dict[int, float]:
        runner = make_runner(folder, tmp_path / name, by_epoch, workers, **kwargs)
        with contextlib.suppress(KeyboardInterrupt):
            runner.train()
        if workers:
            (log,) = (tmp_path / name).glob(f"{runner.timestamp}/*.log")
            named = re.findall(rf"broken image, replaced by another sample: {folder}/(\d+).png \(\w+:", log.read_text())
            assert set(named) == {"000", "020"}
        return Losses.log

    whole = train("whole")
    assert list(whole) == list(range(20))
    assert train("broken", die_at=12) == {i: whole[i] for i in range(12)}
    assert train("broken", resume=True) == {i: whole[i] for i in range(10, 20)}


@pytest.mark.parametrize("by_epoch", [True, False], ids=["epochs", "iterations"])
def test_more_than_one_percent_of_an_epoch_stops_the_training(by_epoch, tmp_path):
    runner = make_runner(pictures(tmp_path / "pictures", broken=3), tmp_path / "work", by_epoch, workers=0)
    with pytest.raises(BrokenImagesError, match="3 of 200 images could not be read, more than 1%"):
        runner.train()
    assert runner.iter < 10
    path = save_stopped(runner)
    assert path == str(tmp_path / "work" / f"stopped_iter_{runner.iter}.pth")
    saved = torch.load(path, weights_only=False)
    assert saved["meta"]["iter"] == runner.iter == len(Losses.log)
    assert saved["meta"].get("batches", runner.iter) == runner.iter
    assert saved["optimizer"]["state"]


def test_folder_that_vanishes_stops_the_training(tmp_path):
    runner = make_runner(folder := pictures(tmp_path / "pictures", 0), tmp_path / "work", by_epoch=True, workers=0)
    len(runner.train_loop.dataloader.dataset)  # read the list of images
    shutil.rmtree(folder)
    with pytest.raises(BrokenImagesError, match=r"10 images in a row cannot be read, the last is .*FileNotFoundError"):
        runner.train()


def test_loaders_of_all_pipelines_report_once():
    load = dict(type="mmdet.LoadImageFromFile", backend_args=None)
    dataset = dict(type="MultiImageMixDataset", dataset=dict(pipeline=[load, dict(type="Pack")]), pipeline=[])
    hook = dict(type="PipelineSwitchHook", switch_pipeline=[load])
    cfg = Config(dict(train_dataloader=dict(dataset=dataset), custom_hooks=[hook]))
    for _ in range(2):
        report_broken_images(cfg)
        reporting = dict(type="LoadOrReport", loader=load)
        assert cfg.train_dataloader.dataset.dataset.pipeline == [reporting, dict(type="Pack")]
        assert cfg.custom_hooks == [dict(hook, switch_pipeline=[reporting]), dict(type="BrokenImagesHook")]


@pytest.mark.slow
def test_train_keeps_a_checkpoint_and_says_how_to_go_on(data, tmp_path):
    folder, work = tmp_path / "data", tmp_path / "work"
    shutil.copytree(data, folder, copy_function=shutil.copyfile)
    for image in sorted((folder / "train2017").iterdir())[1:]:
        image.write_bytes(image.read_bytes()[:-200])  # whole headers pass the checks before the training
    config = ROOT / "configs" / "revcol_maskrcnn_coco.py"
    result = run("train", config, "--data-root", folder, "--work-dir", work, *options())
    assert result.returncode == 2, result.stderr
    message = result.stderr.partition("error: ")[2]
    assert re.match(r"\d+ (of 8 images could not be read|images in a row cannot be read)", message)
    assert "Traceback" not in result.stderr
    (checkpoint,) = work.glob("stopped_iter_*.pth")
    assert f"the state is saved as {checkpoint}, --resume goes on" in message
