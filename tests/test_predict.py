"""``predict``: the boxes of ``test``, files that other tools read, videos, tiles, and skipped inputs."""

import contextlib
import json
import pickle
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO
from tool_runs import ROOT, command, environment, verb

from backbones import cli
from backbones.config.hosts import find_config
from backbones.config.lookup import import_host
from backbones.predict.inputs import find
from backbones.predict.predictor import build_model
from backbones.predict.tiles import corners
from backbones.usage import UsageError

DETECTOR = "densebackbones::revcol_maskrcnn_sample.py"
SHAPES = ("disc", "rectangle", "triangle", "star", "ring")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # the hosts' visualizers
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # mmdet and pycocotools on numpy 2
]


def checkpoint(config: str, file: Path, classes: tuple[str, ...]) -> Path:
    """A file as a training writes it, of random weights."""
    cfg = Config.fromfile(find_config(config))
    import_host(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, value in model.named_parameters():
        if name.endswith("fc_cls.bias"):
            torch.nn.init.normal_(value, std=2)  # scores above the threshold
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=classes))), file)
    return file


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(DETECTOR, tmp_path_factory.mktemp("detector") / "epoch_1.pth", SHAPES)


@pytest.mark.slow
def test_boxes_are_those_of_test_and_pycocotools_reads_them(detector, sample, tmp_path, capsys):
    images, annotations = sample / "val2017", sample / "annotations" / "instances_val2017.json"
    verb("predict", DETECTOR, detector, images, "-o", tmp_path / "out", "--annotations", annotations)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    options = [
        "test_dataloader.num_workers=0",
        "test_dataloader.persistent_workers=False",
        "test_dataloader.batch_size=1",
    ]
    given = ("--data-root", sample, "--work-dir", tmp_path, "--out", tmp_path / "dump.pkl", "--cfg-options", *options)
    verb("test", DETECTOR, detector, *given)
    expected = pickle.loads((tmp_path / "dump.pkl").read_bytes())
    assert sum(len(item["pred_instances"]["scores"]) for item in expected) == len(results) > 20
    for item in expected:
        own = [result for result in results if result["image_id"] == item["img_id"]]
        boxes = torch.tensor([result["bbox"] for result in own])
        boxes[:, 2:] += boxes[:, :2]
        torch.testing.assert_close(boxes, item["pred_instances"]["bboxes"], rtol=0, atol=1e-3)
        scores = torch.tensor([result["score"] for result in own])
        torch.testing.assert_close(scores, item["pred_instances"]["scores"], rtol=0, atol=1e-6)
    for truth in (COCO(annotations), COCO(tmp_path / "out" / "images.json")):
        loaded = truth.loadRes(str(tmp_path / "out" / "predictions.json"))
        assert len(loaded.anns) == len(results)
        assert all(loaded.annToMask(annotation).shape == (160, 160) for annotation in loaded.anns.values())
    pictures = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert pictures == {path.name for path in images.iterdir()}


@pytest.mark.slow
def test_unreadable_files_are_skipped_by_name(detector, sample, tmp_path, capsys, fail):
    (tmp_path / "in").mkdir()
    image = next((sample / "val2017").iterdir())
    (tmp_path / "in" / "good.jpg").write_bytes(image.read_bytes())
    (tmp_path / "in" / "cut.jpg").write_bytes(b"")
    (tmp_path / "in" / "page.png").write_text("<html>")
    (tmp_path / "in" / "film.mp4").write_text("no film")
    assert cli.run("predict", list(map(str, (DETECTOR, detector, tmp_path / "in", "-o", tmp_path / "out")))) == 3
    printed = capsys.readouterr().out
    assert "predictions on 1 images" in printed
    assert all(f"{tmp_path / 'in' / name}: " in printed for name in ("cut.jpg", "page.png", "film.mp4"))
    assert "exists and is left alone" in fail("predict", DETECTOR, detector, tmp_path / "in", "-o", tmp_path / "out")
    assert "names no image or video" in fail("predict", DETECTOR, detector, tmp_path / "no", "-o", tmp_path / "new")
    assert "belongs to another model" in fail(
        "predict", "densebackbones::vit_maskrcnn_sample.py", detector, tmp_path / "in", "-o", tmp_path / "new"
    )


@pytest.mark.slow
def test_video_becomes_a_video_and_tiles_cover_large_images(detector, sample, tmp_path):
    frames = [cv2.imread(str(path)) for path in sorted((sample / "val2017").iterdir())[:3]]
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (160, 160))
    for frame in frames:
        writer.write(frame)
    writer.release()
    cv2.imwrite(str(tmp_path / "large.png"), np.hstack(frames))
    inputs = (tmp_path / "clip.mp4", tmp_path / "large.png")
    verb("predict", DETECTOR, detector, *inputs, "-o", tmp_path / "out", "--tile", 160, "--overlap", 0.25)
    made = cv2.VideoCapture(str(tmp_path / "out" / "videos" / "clip.mp4"))
    assert int(made.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    images = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["large.png", *(f"clip.mp4/{i:06d}" for i in range(3))]
    boxes = [r["bbox"] for r in json.loads((tmp_path / "out" / "predictions.json").read_text()) if r["image_id"] == 1]
    lefts = np.array(boxes)[:, 0]
    assert all(((lefts >= start) & (lefts < start + 160)).any() for start in (0, 160, 320))


def test_tiles_cover_the_image_and_overlap():
    places = corners(height=300, width=500, side=200, overlap=0.25)
    covered = np.zeros((300, 500), int)
    for left, top, right, bottom in places:
        assert (right - left, bottom - top) == (200, 200)
        covered[top:bottom, left:right] += 1
    assert covered.min() == 1 < covered.max()


@pytest.mark.slow
@pytest.mark.parametrize("config", ["densebackbones::revcol_upernet_overfit.py", "densebackbones::revcol_flowers.py"])
def test_segmentor_and_classifier(config, sample, tmp_path):
    settings = Config.fromfile(find_config(config)).model
    count = (settings.get("decode_head") or settings.head).num_classes
    classes = tuple(f"class {i}" for i in range(count))
    file = checkpoint(config, tmp_path / "file.pth", classes)
    verb("predict", config, file, sample / "val2017", "-o", tmp_path / "out", "--batch-size", 4)
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(results) == len(list((tmp_path / "out" / "pictures").iterdir())) == 4
    for result in results:
        if "segmentor" in config or "upernet" in config:
            labels = cv2.imread(str(tmp_path / "out" / result["file_name"]), cv2.IMREAD_UNCHANGED)
            assert labels.shape == (160, 160)
            shares = np.bincount(labels.ravel(), minlength=count) / labels.size
            assert result["classes"] == {classes[i]: pytest.approx(s, abs=1e-6) for i, s in enumerate(shares) if s}
        else:
            scores = [entry["score"] for entry in result["classes"]]
            assert len(scores) == 5
            assert scores == sorted(scores, reverse=True)
            assert sum(scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_commands_of_the_page_run(detector, sample, tmp_path):
    page = (ROOT / "docs" / "learn" / "predict.md").read_text()
    images = sorted((sample / "val2017").iterdir())
    places = {"CONFIG": DETECTOR, "CHECKPOINT": detector, "photos/": images[0].parent, "aerial.tif": images[0]}
    commands = [line.split() for line in re.findall(r"^densebackbones predict (.+)$", page, flags=re.MULTILINE)]
    assert ["CONFIG", "CHECKPOINT", "--serve"] in commands  # below, in a browser
    for number, words in enumerate(words for words in commands if "--serve" not in words):
        places["predictions"] = tmp_path / str(number)
        verb("predict", *[places.get(word, word) for word in words])
        assert (tmp_path / str(number) / "predictions.json").is_file()


def test_inputs_are_files_folders_and_patterns(sample, tmp_path):
    folder = sample / "val2017"
    names = sorted(path.name for path in folder.iterdir())
    assert [source.name for source in find([str(folder)])] == names
    assert [source.name for source in find([str(folder / names[0]), str(folder / "*.jpg")])] == names
    (tmp_path / names[0]).write_bytes(b"")
    assert len({source.name for source in find([str(folder), str(tmp_path)])}) == 5
    with pytest.raises(UsageError, match="notes.txt names no image or video"):
        find([str(tmp_path / "notes.txt")])


def test_wrong_arguments_are_refused(fail, tmp_path):
    given = (DETECTOR, "file.pth", "in", "-o", tmp_path / "out")
    assert "name the images and a folder" in fail("predict", *given[:2])
    assert "--batch-size is 0" in fail("predict", *given, "--batch-size", 0)
    assert "--overlap is 1.0; it must lie in [0, 1)" in fail("predict", *given, "--overlap", 1)
    assert "--tile is for detectors" in fail("predict", "densebackbones::revcol_flowers.py", *given[1:], "--tile", 64)


@pytest.mark.slow
def test_page_shows_the_prediction_of_a_dropped_image(detector, sample):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no browser on this machine")
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = subprocess.Popen(command("predict", DETECTOR, detector, "--serve", "--port", port), env=environment())
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            for _ in range(120):
                with contextlib.suppress(Exception):  # until the server is there
                    page.goto(f"http://127.0.0.1:{port}")
                    break
                time.sleep(1)
            page.locator("input[type=file]").first.set_input_files(next((sample / "val2017").iterdir()))
            page.get_by_role("button", name="Submit").click()
            shown = page.wait_for_selector('img[src$="image.jpeg"]', timeout=60_000)
            assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [160, 160]
            browser.close()
    finally:
        served.terminate()
        served.wait(30)
