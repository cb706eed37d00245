"""predict: the results of test in files that pycocotools reads, for images, folders and videos, and a page."""

import json
import pickle
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from test_segmentation import CONFIG as SEGMENTOR
from test_segmentation import SMALL as SMALL_SEGMENTOR
from test_tools import CONFIG as DETECTOR
from test_tools import SMALL as SMALL_DETECTOR
from tool_runs import ROOT, command, environment, verb

from backbones import cli
from backbones.cli._runs import build_model, load_config
from backbones.predict.inputs import Frame, Input, find_inputs
from backbones.predict.predictor import Predictor
from backbones.predict.tiles import TiledPredictor

# of the hosts' own code
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

ONE_PROCESS = {"test_dataloader.num_workers": 0, "test_dataloader.persistent_workers": False}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def make_model(folder: Path, config: Path, data: Path, options: dict, classes: list[str] | None = None) -> list[Path]:
    """The config in a work dir and the checkpoint of a small model with random weights."""
    options = [f"{key}={value}" for key, value in {**options, **ONE_PROCESS}.items()]
    cfg = load_config(cli.parse_args("test", [str(config), "-", "--data-root", str(data), "--cfg-options", *options]))
    torch.manual_seed(0)
    paths = [folder / config.name, folder / "epoch_1.pth"]
    cfg.dump(paths[0])
    meta = {"dataset_meta": {"classes": classes}} if classes else {}
    torch.save({"state_dict": build_model(cfg).state_dict(), "meta": meta}, paths[1])
    return paths


@pytest.fixture(scope="module")
def detector(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_model(tmp_path_factory.mktemp("detector"), DETECTOR, data, SMALL_DETECTOR)


@pytest.fixture
def photographs(data: Path) -> list[Path]:
    return sorted((data / "val2017").glob("*.jpg"))


def read(out: Path) -> tuple[list[dict], dict]:
    return json.loads((out / "predictions.json").read_text()), json.loads((out / "images.json").read_text())


def dump_of_test(model: list[Path], out: Path) -> list[dict]:
    """The dump of the verb test."""
    verb("test", *model, "--work-dir", out / "work", "--out", out / "test.pkl")
    return pickle.loads((out / "test.pkl").read_bytes())


# ------------------------------------------------------------------------------------------------------ results of test
@pytest.mark.slow
def test_boxes_masks_and_ids_are_those_of_test_with_any_batch_size(detector, data, tmp_path):
    dump = dump_of_test(detector, tmp_path)
    verb("predict", *detector, *[sample["img_path"] for sample in dump], "-o", tmp_path / "out", "--batch-size", 2)
    records, images = read(tmp_path / "out")
    annotations = COCO(str(data / "annotations" / "instances_val2017.json"))
    assert [annotations.imgs[image["id"]]["file_name"] for image in images["images"]] == [
        Path(sample["img_path"]).name for sample in dump
    ]
    assert len(records) == 10
    for sample in dump:
        found, (height, width) = sample["pred_instances"], sample["ori_shape"]
        mine = [record for record in records if record["image_id"] == sample["img_id"]]
        boxes = np.array([record["bbox"] for record in mine])
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, found["bboxes"], rtol=0, atol=1e-3)
        np.testing.assert_allclose([record["score"] for record in mine], found["scores"], rtol=1e-5)
        names = [annotations.cats[record["category_id"]]["name"] for record in mine]
        classes = [category["name"] for category in images["categories"]]
        assert names == [classes[label] for label in found["labels"]]
        for record, mask in zip(mine, found["masks"], strict=True):
            assert record["segmentation"]["size"] == [height, width]
            assert (coco_mask.decode(record["segmentation"]) != coco_mask.decode(mask)).mean() < 1e-3
    results = annotations.loadRes(str(tmp_path / "out" / "predictions.json"))
    assert results.annToMask(results.anns[1]).shape == tuple(dump[0]["ori_shape"])
    pictures = sorted((tmp_path / "out" / "pictures").iterdir())
    assert [picture.stem for picture in pictures] == sorted(Path(sample["img_path"]).stem for sample in dump)


def test_ids_are_an_annotation_files_or_numbers(detector, photographs, data, tmp_path, fail):
    (tmp_path / "a" / "b").mkdir(parents=True)
    copies = [str(shutil.copy(photographs[i], tmp_path / "a" / name)) for i, name in enumerate(["b/1.jpg", "1.jpg"])]
    verb("predict", *detector, tmp_path / "a", "-o", tmp_path / "numbers")
    records, images = read(tmp_path / "numbers")
    assert [image["file_name"] for image in images["images"]] == [copies[1], copies[0]]
    assert [image["id"] for image in images["images"]] == [1, 2]
    assert [category["id"] for category in images["categories"]] == list(range(80))
    assert [record["id"] for record in records] == list(range(1, 11))
    results = COCO(str(tmp_path / "numbers" / "images.json")).loadRes(str(tmp_path / "numbers" / "predictions.json"))
    assert set(results.imgToAnns) == {1, 2}
    assert sorted(str(p.relative_to(tmp_path / "numbers")) for p in (tmp_path / "numbers").rglob("*.jpg")) == [
        *("pictures/1.jpg", "pictures/b/1.jpg")
    ]

    content = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    content["images"] = [dict(id=70, file_name="b/1.jpg")]
    annotations = tmp_path / "mine.json"
    annotations.write_text(json.dumps(content))
    verb("predict", *detector, copies[0], "-o", tmp_path / "given", "--annotations", annotations)
    records, images = read(tmp_path / "given")
    assert {record["image_id"] for record in records} == {70}
    assert images["categories"] == [dict(id=c["id"], name=c["name"]) for c in content["categories"]]
    message = fail("predict", *detector, copies[1], "-o", tmp_path / "no", "--annotations", annotations)
    assert message.startswith(f"--annotations {annotations} lacks {copies[1]}")
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_label_maps_are_those_of_test(tmp_path):
    data = SHARED / "data" / "coco_semantic_tiny"
    if not data.is_dir():
        pytest.skip(f"no photographs with label maps: {data}")
    classes = (data / "classes.txt").read_text().splitlines()
    model = make_model(tmp_path, SEGMENTOR, data, SMALL_SEGMENTOR, classes)
    dump = dump_of_test(model, tmp_path)
    verb("predict", *model, *[sample["img_path"] for sample in dump], "-o", tmp_path / "out", "--batch-size", 2)
    _, images = read(tmp_path / "out")
    assert images["categories"] == [dict(id=i, name=name) for i, name in enumerate(classes)]
    results = COCO(str(tmp_path / "out" / "images.json")).loadRes(str(tmp_path / "out" / "predictions.json"))
    for image, sample in zip(images["images"], dump, strict=True):
        labels = cv2.imread(str(tmp_path / "out" / "label_maps" / image["label_map"]), cv2.IMREAD_UNCHANGED)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, sample["pred_sem_seg"]["data"][0].numpy())
        mine = [record for record in results.anns.values() if record["image_id"] == image["id"]]
        assert {record["category_id"] for record in mine} == set(np.unique(labels).tolist())
        for record in mine:
            np.testing.assert_array_equal(results.annToMask(record), labels == record["category_id"])


@pytest.mark.slow
def test_the_best_five_classes_are_those_of_test(tmp_path):
    data = SHARED / "data" / "flowers_small"
    if not data.is_dir():
        pytest.skip(f"no photographs of flowers: {data}")
    model = make_model(tmp_path, ROOT / "configs" / "revcol_flowers.py", data, {"test_dataloader.dataset.indices": 2})
    dump = dump_of_test(model, tmp_path)
    verb("predict", *model, *[sample["img_path"] for sample in dump], "-o", tmp_path / "out")
    records, images = read(tmp_path / "out")
    for number, sample in enumerate(dump, 1):
        scores, labels = sample["pred_score"].sort(descending=True)
        mine = [record for record in records if record["image_id"] == number]
        assert [record["category_id"] for record in mine] == labels.tolist()
        np.testing.assert_allclose([record["score"] for record in mine], scores, rtol=1e-4)
    assert [category["name"] for category in images["categories"]] == list("01234")  # no names in config and checkpoint
    results = COCO(str(tmp_path / "out" / "images.json")).loadRes(str(tmp_path / "out" / "predictions.json"))
    assert len(results.anns) == 10
    assert len(list((tmp_path / "out" / "pictures").glob("*.jpg"))) == 2


@pytest.mark.slow
def test_segments_of_a_panoptic_model_are_in_cocos_panoptic_format(photographs, data, tmp_path):
    stock = tmp_path / "panoptic.py"
    verb("drop-in", "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", "--backbone", "RevCol", "-o", stock)
    small = {
        key: value
        for key, value in SMALL_DETECTOR.items()
        if key.startswith("model") and not key.endswith("_delete_") and ".rcnn." not in key
    }
    small |= {"model.semantic_head.in_channels": 16, "model.semantic_head.inner_channels": 32}
    small |= {"test_dataloader.dataset.pipeline.1.scale": "(96,96)"}
    (tmp_path / "model").mkdir()
    model = make_model(tmp_path / "model", stock, data, small)
    verb("predict", *model, photographs[0], "-o", tmp_path / "out")
    records, images = read(tmp_path / "out")
    (annotation,) = json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]
    assert (annotation["image_id"], annotation["file_name"]) == (1, f"{photographs[0].stem}.png")
    blue, green, red = cv2.imread(str(tmp_path / "out" / "label_maps" / annotation["file_name"])).astype(int).T
    ids = (red + 256 * green + 65536 * blue).T
    assert {segment["id"] for segment in annotation["segments_info"]} == set(np.unique(ids)) - {0}
    assert len(records) == len(annotation["segments_info"]) > 0
    for record, segment in zip(records, annotation["segments_info"], strict=True):
        assert record["category_id"] == segment["category_id"] < len(images["categories"])
        np.testing.assert_array_equal(coco_mask.decode(record["segmentation"]), ids == segment["id"])


# -------------------------------------------------------------------------------------------------------------- inputs
def test_a_video_gives_a_video_and_a_number_for_each_frame(detector, photographs, tmp_path):
    frames = [cv2.resize(cv2.imread(str(path)), (96, 64)) for path in photographs[:3]]
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
    for frame in frames:
        writer.write(frame)
    writer.release()
    verb("predict", *detector, tmp_path / "film.avi", "-o", tmp_path / "out", "--score-thr", 1)
    records, images = read(tmp_path / "out")
    assert [(image["id"], image["frame"], image["width"], image["height"]) for image in images["images"]] == [
        *((1, 0, 96, 64), (2, 1, 96, 64), (3, 2, 96, 64))
    ]
    assert {record["image_id"] for record in records} == {1, 2, 3}
    video = cv2.VideoCapture(str(tmp_path / "out" / "pictures" / "film.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == 5
    for frame in frames:  # enlarged; no box reaches the score 1
        read_, picture = video.read()
        assert read_
        assert picture.shape == (64 * 5, 96 * 5, 3)
        assert abs(cv2.resize(picture, (96, 64)).astype(int) - frame).mean() < 12
    assert not video.read()[0]


def test_unreadable_files_are_named_and_skipped_with_status_3(detector, photographs, tmp_path, capsys, fail):
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "cut.jpg").write_bytes(photographs[0].read_bytes()[:9000])
    (tmp_path / "cut.mp4").write_bytes(b"nothing")
    broken = [tmp_path / name for name in ("page.jpg", "cut.jpg", "cut.mp4", "absent.jpg")]
    out = tmp_path / "out"
    assert cli.run("predict", [*map(str, [*detector, *broken, photographs[0], "-o", out])]) == 3
    said = capsys.readouterr().err
    for path in broken:
        assert said.count(f"note: skipped {path}: ") == 1
    assert len(read(out)[1]["images"]) == 1
    assert "no input can be read" in fail("predict", *detector, *broken, "-o", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    assert "exists and is left alone" in fail("predict", *detector, photographs[0], "-o", out)


def test_inputs_have_names_of_their_own(tmp_path):
    for name in ("a/1.jpg", "a/1.png", "b/1.jpg", "b/film.MP4", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_inputs([str(tmp_path / "b"), str(tmp_path / "*" / "1.*"), str(tmp_path / "b" / "1.jpg")])
    assert [file.name for file in found.files] == ["b/1", "b/film", "a/1_jpg", "a/1_png"]
    assert [file.is_video for file in found.files] == [False, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent*.jpg", "-o", "out"], "there is no image or video (absent*.jpg: there is no such file)"),
        (["-o", "out"], "there is nothing to predict: name images"),
        (["x.jpg"], "name a folder for the results: -o FOLDER"),
        (["x.jpg", "--serve"], "--serve takes no INPUT"),
        (["{image}", "-o", "out", "--batch-size", "0"], "--batch-size is 0"),
        (["{image}", "-o", "out", "--device", "abacus"], "--device abacus: "),
        (["{image}", "-o", "out", "--tile", "64", "--overlap", "1"], "--tile 64 --overlap 1.0: "),
        (["{image}", "-o", "out", "--annotations", "no.json"], "no.json cannot be read as COCO annotations"),
        (["{image}", "-o", "out", "--cfg-options", "model.neck.out_channels=8"], "belongs to another model"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, detector, photographs, tmp_path, monkeypatch, fail):
    monkeypatch.chdir(tmp_path)
    assert message in fail("predict", *detector, *[a.format(image=photographs[0]) for a in arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("sahi", "predict", ["{image}", "-o", "out", "--tile", "64"]),
        ("pycocotools", "predict", ["{image}", "-o", "out"]),
        ("gradio", "demo", ["--serve"]),
    ],
)
def test_missing_packages_are_named_with_their_extra(
    package, extra, arguments, detector, photographs, tmp_path, monkeypatch, fail
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # as if it was not installed
    message = fail("predict", *detector, *[a.format(image=photographs[0]) for a in arguments])
    assert package in message
    assert f"pip install 'densebackbones[{extra}]'" in message
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- tiles
def test_tiles_give_the_boxes_of_each_tile_in_the_whole_image(detector, photographs):
    cfg = load_config(cli.parse_args("predict", [*map(str, detector), "-"]))
    model = build_model(cfg)
    model.load_state_dict(torch.load(detector[1])["state_dict"])
    predictor = Predictor(model, cfg)
    tile = cv2.resize(cv2.imread(str(photographs[0])), (96, 96))
    source = Input(photographs[0], "tiles")

    def instances(predict, image: np.ndarray) -> InstanceData:
        ((_, sample),) = predict([Frame(source, image)])
        assert sample.pred_instances.masks.shape == (len(sample.pred_instances), *image.shape[:2])
        return sample.pred_instances

    alone = instances(predictor, tile)
    one = instances(TiledPredictor(predictor, 96, 0.2), tile)
    torch.testing.assert_close((one.bboxes, one.scores, one.masks), (alone.bboxes, alone.scores, alone.masks))
    twice = instances(TiledPredictor(predictor, 96, 0), np.hstack([tile, tile]))
    assert twice.scores.diff().max() <= 0
    left, right = twice[twice.bboxes[:, 2] <= 96], twice[twice.bboxes[:, 0] >= 96]
    assert 0 < len(left) <= len(alone)
    shift = torch.tensor([96.0, 0, 96, 0])
    torch.testing.assert_close(right.bboxes, left.bboxes + shift, rtol=0, atol=1e-3)
    torch.testing.assert_close(right.masks[..., 96:], left.masks[..., :96])
    assert not right.masks[..., :96].any()


# ---------------------------------------------------------------------------------------------------------------- page
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_an_image_dropped_on_the_page_shows_its_prediction(detector, photographs):
    playwright = pytest.importorskip("playwright.sync_api")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = command("predict", *detector, "--serve", "--score-thr", 0, "--device", "cpu")
    env = environment(GRADIO_SERVER_PORT=port, PYTHONUNBUFFERED=1)
    with (
        subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as server,
        playwright.sync_playwright() as tool,
    ):
        try:
            address = next(line.split()[-1] for line in server.stdout or () if "http://" in line)
            page = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
            page.goto(address)
            page.locator("input[type=file]").first.set_input_files(photographs[0])
            picture = page.locator("img[src*='/file=']").nth(1)  # the first is the dropped image
            picture.wait_for(timeout=60_000)
            assert picture.evaluate("image => image.naturalWidth") >= 480
            page.get_by_text("score").first.wait_for()
        finally:
            server.terminate()


# ---------------------------------------------------------------------------------------------------------------- docs
def test_commands_of_the_page_work(detector, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photographs").mkdir()
    image = cv2.imread(str(shutil.copy(photographs[0], "photographs")))
    cv2.imwrite("satellite.png", image)
    writer = cv2.VideoWriter("film.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 5, image.shape[1::-1])
    writer.write(image)
    writer.release()
    text = (ROOT / "docs" / "learn" / "predict.md").read_text()
    commands = [line for line in re.findall(r"^densebackbones (.+)$", text, re.M) if "--serve" not in line]
    assert len(commands) == 3
    for line in commands:
        verb(*shlex.split(line.replace("CONFIG", str(detector[0])).replace("CHECKPOINT", str(detector[1]))))
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict = {}
    exec(code, names)
    assert len(names["results"].anns) == 5
