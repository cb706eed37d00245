"""The tools on a segmentation data set of one's own: real processes on photographs, or on drawn images without them."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, SHARED
from mmengine.config import Config
from PIL import Image
from tool_runs import losses, run, run_without

pytestmark = pytest.mark.slow

CONFIG = ROOT / "configs" / "revcol_upernet_custom.py"
SMALL = {  # a tiny model, crops of 64 pixels and four iterations
    "model.backbone.arch._delete_": True,
    "model.backbone.arch.channels": "8,16,32,64",
    "model.backbone.arch.depths": "1,1,1,1",
    "model.backbone.arch.num_columns": 2,
    "model.decode_head.in_channels": "8,16,32,64",
    "model.decode_head.channels": 16,
    "model.auxiliary_head.in_channels": 32,
    "model.auxiliary_head.channels": 16,
    "model.data_preprocessor.size": "(64,64)",
    "model.test_cfg.crop_size": "(64,64)",
    "model.test_cfg.stride": "(42,42)",
    "train_dataloader.dataset.pipeline.2.scale": "(256,64)",
    "train_dataloader.dataset.pipeline.3.crop_size": "(64,64)",
    "val_dataloader.dataset.pipeline.1.scale": "(256,64)",
    "test_dataloader.dataset.pipeline.1.scale": "(256,64)",
    "val_dataloader.dataset.indices": 2,
    "test_dataloader.dataset.indices": 2,
    **{f"{loop}_dataloader.num_workers": 0 for loop in ("train", "val", "test")},
    **{f"{loop}_dataloader.persistent_workers": False for loop in ("train", "val", "test")},
    "optim_wrapper.optimizer.lr": 1e-3,
    "param_scheduler.0.end": 2,
    "train_cfg.max_iters": 4,
    "train_cfg.val_interval": 4,
    "default_hooks.checkpoint.interval": 2,
    "default_hooks.logger.interval": 1,
}


def draw(root: Path) -> None:
    """Discs, rectangles and rings on noise, in the layout that the config's docstring shows."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for split, number in {"train": 8, "val": 3}.items():
        (root / "images" / split).mkdir()
        (root / "annotations" / split).mkdir(parents=True)
        for i in range(number):
            image = random.integers(0, 100, (96, 128, 3), dtype=np.uint8)
            mask = np.zeros((96, 128), np.uint8)
            for label, x in enumerate(random.permutation([20, 60, 100]).tolist(), start=1):
                y, color = int(random.integers(25, 70)), [60 * label] * 3
                for canvas, paint in ((image, color), (mask, label)):
                    if label == 2:
                        cv2.rectangle(canvas, (x - 15, y - 15), (x + 15, y + 15), paint, -1)
                    else:
                        cv2.circle(canvas, (x, y), 15, paint, -1 if label == 1 else 6)
            mask[:2] = 255
            cv2.imwrite(str(root / "images" / split / f"{i}.jpg"), image)
            cv2.imwrite(str(root / "annotations" / split / f"{i}.png"), mask)
    (root / "classes.txt").write_text("ground\ndisc\nrectangle\nring\n")


@pytest.fixture(scope="module")
def semantic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of COCO where they lie beside the checkout, drawn images otherwise."""
    photographs = SHARED / "data" / "coco_semantic_tiny"
    if photographs.is_dir():
        return photographs
    root = tmp_path_factory.mktemp("data") / "drawn"
    draw(root)
    return root


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A data set to spoil."""
    draw(tmp_path / "drawn")
    return tmp_path / "drawn"


def heads(root: Path) -> dict[str, int]:
    number = len((root / "classes.txt").read_text().splitlines())
    return {f"model.{head}.num_classes": number for head in ("decode_head", "auxiliary_head")}


def options(**changes) -> list[str]:
    return ["--cfg-options", *(f"{key}={value}" for key, value in {**SMALL, **changes}.items())]


@pytest.fixture(scope="module")
def trained(semantic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of an uninterrupted run, whose images are loaded by two processes."""
    work_dir = tmp_path_factory.mktemp("trained")
    changes = {"randomness.seed": 0, "train_dataloader.num_workers": 2, **heads(semantic)}
    result = run("train", CONFIG, "--data-root", semantic, "--work-dir", work_dir, *options(**changes))
    assert result.returncode == 0, result.stderr
    return work_dir


# ------------------------------------------------------------------------------------------------------ train and test
@pytest.mark.long
def test_resumed_run_has_the_loss_curve_of_an_uninterrupted_one(trained, semantic, tmp_path):
    arguments = ("--data-root", semantic, "--work-dir", tmp_path, "--resume", trained / "iter_2.pth")
    resumed = run("train", CONFIG, *arguments, *options(**heads(semantic)))
    assert resumed.returncode == 0, resumed.stderr
    (uninterrupted,), (continued,) = losses(trained), losses(tmp_path)
    assert list(uninterrupted) == [1, 2, 3, 4]
    assert continued == {step: uninterrupted[step] for step in (3, 4)}


def test_segmentation_works_without_mmpretrain(semantic, tmp_path):
    short = {"train_cfg.max_iters": 1, "train_cfg.val_interval": 1, "default_hooks.checkpoint.interval": 1}
    given = ("--data-root", semantic, "--work-dir", tmp_path, *options(**heads(semantic), **short))
    result = run_without("mmpretrain", "train", CONFIG, *given)
    assert result.returncode == 0, result.stderr
    assert "mIoU" in result.stdout + result.stderr


def test_learning_rate_reaches_zero_with_the_last_iteration():
    cfg = Config.fromfile(CONFIG)
    assert [schedule.end for schedule in cfg.param_scheduler] == [1500, cfg.train_cfg.max_iters]
    assert cfg.param_scheduler[1].eta_min == 0


def test_data_root_moves_the_file_of_classes_along(trained, semantic):
    copy = Config.fromfile(trained / CONFIG.name)
    for loop in ("train", "val", "test"):
        dataset = copy[f"{loop}_dataloader"].dataset
        dataset = dataset.get("dataset", dataset)
        assert dataset.metainfo.classes == str(semantic / "classes.txt")


def test_evaluation_gives_miou_label_maps_and_pictures(trained, semantic, tmp_path):
    result = run(
        *("test", trained / CONFIG.name, trained / "iter_4.pth", "--work-dir", tmp_path / "work"),
        *("--out", tmp_path / "predictions.pkl", "--show-dir", tmp_path / "pictures"),
    )
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "predictions.pkl", "rb") as file:
        predictions = pickle.load(file)

    confusion = np.zeros((256, 256), int)
    for prediction in predictions:
        mask = cv2.imread(prediction["seg_map_path"], cv2.IMREAD_UNCHANGED)
        labels = prediction["pred_sem_seg"]["data"][0].numpy()
        assert labels.shape == mask.shape
        np.add.at(confusion, (mask[mask != 255], labels[mask != 255]), 1)
        assert "seg_logits" not in prediction
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    metrics = json.loads((tmp_path / "predictions.json").read_text())
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(hits[union > 0] / union[union > 0]), abs=0.006)

    names = sorted(path.name for path in (semantic / "images" / "val").iterdir())[:2]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted([*names, "metrics.json"])
    for name in names:
        height, width, _ = cv2.imread(str(semantic / "images" / "val" / name)).shape
        scale = -(-480 // max(height, width))  # small images are enlarged
        assert cv2.imread(str(tmp_path / "pictures" / name)).shape == (scale * height, 2 * scale * width, 3)


OVERFIT = {  # six images, overfitted
    **SMALL,
    "model.backbone.arch.channels": "16,32,64,128",
    "model.backbone.arch.depths": "1,1,2,1",
    "model.backbone.arch.kernel_size": 7,
    "model.backbone.drop_path_rate": 0,
    "model.decode_head.in_channels": "16,32,64,128",
    "model.decode_head.channels": 32,
    "model.auxiliary_head.in_channels": 64,
    "model.auxiliary_head.channels": 32,
    "model.data_preprocessor.size": "(128,128)",
    "model.test_cfg.crop_size": "(128,128)",
    "model.test_cfg.stride": "(85,85)",
    "train_dataloader.batch_size": 6,
    "train_dataloader.dataset.indices": 6,
    "train_dataloader.dataset.pipeline.2.scale": "(512,128)",
    "train_dataloader.dataset.pipeline.2.ratio_range": "(1.0,1.5)",
    "train_dataloader.dataset.pipeline.3.crop_size": "(128,128)",
    "val_dataloader.dataset.indices": 6,
    "val_dataloader.dataset.data_prefix.img_path": "images/train",
    "val_dataloader.dataset.data_prefix.seg_map_path": "annotations/train",
    "val_dataloader.dataset.pipeline.1.scale": "(512,128)",
    "optim_wrapper.optimizer.lr": 6e-3,
    "param_scheduler.0.end": 20,
    "param_scheduler.1.begin": 20,
    "default_hooks.logger.interval": 50,
    "randomness.seed": 0,
}


@pytest.mark.parametrize(("iterations", "iou"), [(100, 25), pytest.param(400, 50, marks=pytest.mark.long)])
def test_six_images_are_overfitted(semantic, tmp_path, iterations, iou):
    ends = "param_scheduler.1.end", "train_cfg.max_iters", "train_cfg.val_interval", "default_hooks.checkpoint.interval"
    settings = {**OVERFIT, **heads(semantic), **dict.fromkeys(ends, iterations)}
    changes = [f"{key}={value}" for key, value in settings.items()]
    result = run("train", CONFIG, "--data-root", semantic, "--work-dir", tmp_path, "--cfg-options", *changes)
    assert result.returncode == 0, result.stderr
    (file,) = tmp_path.glob("*/vis_data/scalars.json")
    assert json.loads(file.read_text().splitlines()[-1])["mIoU"] > iou


# ------------------------------------------------------------------------------------------- errors before time is lost
@pytest.mark.parametrize(
    ("config", "paths", "help_"),
    [
        ("revcol_upernet_custom", ["annotations/train", "classes.txt", "images/val"], "folder of the same layout"),
        ("revcol_upernet_ade20k", ["annotations/training", "images/validation"], "http://sceneparsing.csail.mit.edu"),
    ],
)
def test_missing_data_shows_the_tree_and_the_source(config, paths, help_, tmp_path, fail):
    message = fail("train", ROOT / "configs" / f"{config}.py", "--data-root", tmp_path)
    lines = [line.split() for line in message.splitlines()]
    for path in paths:
        assert [str(tmp_path / path), "<-", "missing"] in lines
    assert help_ in message


def test_another_number_of_classes_is_refused_with_the_options_to_add(drawn, fail):
    message = fail("train", CONFIG, "--data-root", drawn)
    assert f"{drawn}/classes.txt has 4 lines" in message
    assert "model.decode_head.num_classes is 27, model.auxiliary_head.num_classes is 27" in message
    assert message.endswith("--cfg-options model.decode_head.num_classes=4 model.auxiliary_head.num_classes=4\n")


def spoil(root: Path, how: str) -> None:
    mask = root / "annotations" / "train" / "3.png"
    labels = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    if how == "class":
        labels[50, 60] = 4
        cv2.imwrite(str(mask), labels)
    elif how == "palette":
        labels[50, 60] = 7
        picture = Image.fromarray(labels)
        picture.putpalette([200, 100, 50] * 256)  # as annotation tools write
        picture.save(mask)
    elif how == "colours":
        cv2.imwrite(str(mask), np.stack([labels] * 3, axis=-1))
    elif how == "mask":
        mask.unlink()
    elif how == "images":
        for image in (root / "images" / "val").iterdir():
            image.rename(image.with_suffix(".jpeg"))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "class",
            "annotations/train/3.png holds the class number 4, but {counted}",
        ),
        (
            "palette",
            "annotations/train/3.png holds the class number 7, but {counted}",
        ),
        ("colours", "annotations/train/3.png has 3 channels; a mask has one"),
        ("mask", "images/train/3.jpg has no mask {root}/annotations/train/3.png"),
        ("images", "images/val holds no .jpg files; set img_suffix"),
    ],
)
def test_masks_that_would_fail_later_are_refused(how, message, drawn, fail):
    spoil(drawn, how)
    said = fail("train", CONFIG, "--data-root", drawn, *options(**heads(drawn)))
    counted = f"{drawn}/classes.txt has 4 classes, counted from 0"
    assert message.format(root=drawn, counted=counted) in said
