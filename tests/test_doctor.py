"""Faults of data: each is named, and refused, repaired or noted by its rule."""

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from test_tools import options
from tool_runs import ROOT, run

from backbones import cli
from backbones.datasets.doctor import annotations, images, statistics
from backbones.datasets.doctor import page as page_module
from backbones.datasets.doctor.faults import KINDS

CONFIG = ROOT / "configs" / "revcol_maskrcnn_coco.py"
SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0]]


def coco(**changes) -> dict:
    """An image of 100 x 80, an annotation as it should be, and a second one with changes; None removes a key."""
    good = dict(id=1, image_id=7, category_id=3, bbox=[10, 10, 20, 20], area=400, iscrowd=0, segmentation=SQUARE)
    bad = {key: value for key, value in {**good, "id": 2, **changes}.items() if value is not None}
    image = dict(id=7, file_name="a.jpg", width=100, height=80)
    return dict(images=[image], annotations=[good, bad], categories=[dict(id=3, name="cat")], info={"year": 2020})


NAN, INF = math.nan, math.inf
DROPPED = None


@pytest.mark.parametrize(
    ("changes", "kind", "left"),
    [
        (dict(image_id=8), "unknown-image-id", DROPPED),
        (dict(category_id=4), "unknown-category-id", DROPPED),
        (dict(bbox=None), "invalid-box", DROPPED),
        (dict(bbox=[1, 2, 3]), "invalid-box", DROPPED),
        (dict(bbox="1,2,3,4"), "invalid-box", DROPPED),
        (dict(bbox=["1", "x", "3", "4"]), "invalid-box", DROPPED),
        (dict(bbox=["1", "2.5", "3", "4"]), "text-box", dict(bbox=[1.0, 2.5, 3.0, 4.0])),
        (dict(bbox=[NAN, 2, 3, 4]), "non-finite-box", DROPPED),
        (dict(bbox=[1, 2, INF, 4]), "non-finite-box", DROPPED),
        (dict(bbox=[1, 2, 0, 4]), "empty-box", DROPPED),
        (dict(bbox=[1, 2, 3, -4]), "empty-box", DROPPED),
        (dict(bbox=[100, 2, 3, 4]), "outside-box", DROPPED),
        (dict(bbox=[90, -5, 20, 20]), "overhanging-box", dict(bbox=[90.0, 0.0, 10.0, 15.0], area=150.0)),
        (dict(bbox=[90, 10, 10.9, 20]), None, {}),  # rounding
        (dict(bbox=[1, 2, 0.5, 4]), "thin-box", {}),
        (dict(ignore=1), "ignored", {}),
        (dict(id=1), "annotation-id", dict(id=2)),
        (dict(id=0), "annotation-id", dict(id=2)),
        (dict(id=None), "annotation-id", dict(id=2)),
        (dict(area=None), "area", dict(area=400.0)),
        (dict(area=0), "area", dict(area=400.0)),
        (dict(iscrowd=None), "crowd-flag", dict(iscrowd=0)),
        (dict(segmentation=[]), "invalid-mask", DROPPED),
        (dict(segmentation=None), "invalid-mask", DROPPED),
        (dict(segmentation=[[1, 2, 3, 4]]), "invalid-mask", DROPPED),
        (dict(segmentation=[[1, 2, 3, 4], *SQUARE]), "short-polygon", dict(segmentation=SQUARE)),
        (dict(segmentation=dict(size=[80, 100], counts=[8000])), None, {}),
        (dict(segmentation=dict(size=[100, 80], counts=[8000])), "invalid-mask", DROPPED),
        (dict(segmentation=dict(size=[80, 100], counts=[7999])), "invalid-mask", DROPPED),
        (dict(segmentation=dict(size=[80, 100], counts="garbage!!")), "invalid-mask", DROPPED),
        (dict(segmentation=dict(size=[80, 100], counts="")), "invalid-mask", DROPPED),
        (dict(segmentation=dict(counts=[8000])), "invalid-mask", DROPPED),
        (dict(iscrowd=1, segmentation=dict(size=[80, 100], counts=[10, 7990])), None, {}),  # crowds are kept
    ],
)
def test_fault_of_an_annotation_is_repaired_by_its_rule(changes, kind, left):
    content = coco(**changes)
    before = json.dumps(content)
    faults = annotations.find_faults(content, "a.json", masks=True)
    assert [fault.kind for fault in faults] == ([kind] if kind else [])
    repaired = annotations.repair(content, faults)
    good, bad = content["annotations"]
    expected = [good] if left is DROPPED else [good, {**bad, **left}]
    assert repaired == {**content, "annotations": expected}
    assert json.dumps(content) == before
    assert annotations.find_faults(repaired, "a.json", masks=True) == [
        fault for fault in faults if fault.outcome == "noted"
    ]


def test_masks_do_not_matter_to_a_config_without_masks():
    assert annotations.find_faults(coco(segmentation=[]), "a.json", masks=False) == []


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        ("<!DOCTYPE html><html></html>", "not-json", "begins with b'<!DOCTYPE html>"),
        ('{"images": [', "not-json", "Expecting value"),
        ([], "missing-key", "images, annotations, categories"),
        ({**coco(), "annotations": {}}, "missing-key", "annotations: missing or not a list"),
        ({**coco(), "images": []}, "no-images", "images is empty"),
        ({**coco(), "images": [dict(id=1)]}, "invalid-entry", "images[0]: file_name"),
        (coco(image_id=[7]), "invalid-entry", "annotations[1]: image_id"),
        ({**coco(), "annotations": []}, "no-annotations", "annotations is empty"),
        ({**coco(), "images": coco()["images"] * 2}, "duplicate-image-id", "image id 7 has 2 entries"),
    ],
)
def test_file_that_cannot_be_used_is_refused(content, kind, text, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    found, faults = annotations.read(str(file))
    assert found == {}
    assert {fault.kind for fault in faults} == {kind}
    assert text in faults[0].text
    assert KINDS[kind].outcome == "refused"


def test_images_without_annotations_are_for_testing_only(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({k: v for k, v in coco().items() if k != "annotations"}))
    assert annotations.read(str(tmp_path / "a.json"), labelled=False)[1] == []
    assert [fault.kind for fault in annotations.read(str(tmp_path / "a.json"))[1]] == ["missing-key"]


def test_nothing_left_is_refused():
    content = coco()
    content["annotations"] = content["annotations"][1:]
    content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    assert [fault.kind for fault in annotations.find_faults(content, "", True)] == ["empty-box", "no-annotations"]
    content["annotations"][0] |= dict(bbox=[1, 1, 5, 5], segmentation=[])
    assert [fault.kind for fault in annotations.find_faults(content, "", True)] == ["invalid-mask", "no-masks"]


# ------------------------------------------------------------------------------------------------------------- images
def write(path: Path, size: tuple[int, int], mode: str = "RGB", orientation: int = 1, **kwargs) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    Image.effect_noise(size, 50).convert(mode).save(path, exif=exif, **kwargs)


@pytest.mark.parametrize(
    ("size", "orientation", "kind"),
    [
        ((100, 80), 1, None),
        ((80, 100), 6, None),  # the annotation file has the size after the turn
        ((100, 80), 6, "image-rotation"),
        ((200, 160), 1, "image-scale"),
        ((100, 90), 1, "image-size"),
        ((80, 100), 1, "image-size"),
    ],
)
def test_size_of_an_image_is_that_of_the_file(size, orientation, kind, tmp_path):
    write(tmp_path / "a.jpg", size, orientation=orientation)
    faults = images.coco_faults(coco(), "a.json", str(tmp_path), headers=None)
    assert [fault.kind for fault in faults] == ([kind] if kind else [])
    if kind == "image-size":
        repaired = annotations.repair(coco(), faults)
        assert repaired["images"] == [dict(coco()["images"][0], width=size[0], height=size[1])]
    if kind == "image-rotation":
        assert images.coco_faults(coco(), "", str(tmp_path), None, unturned=True) == []


def test_sizes_are_read_from_some_images_and_from_all_once_one_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_SIZES", 3)
    content = coco()
    content["images"] = [dict(id=i, file_name=f"{i}.jpg", width=100, height=80) for i in range(9)]
    for i in range(9):
        write(tmp_path / f"{i}.jpg", (100, 90) if i in (1, 3) else (100, 80))
    assert images.coco_faults(content, "", str(tmp_path), None) == []  # 0, 4 and 8
    write(tmp_path / "4.jpg", (100, 90))
    assert [fault.id for fault in images.coco_faults(content, "", str(tmp_path), None)] == [1, 3, 4]


def test_decoding_finds_broken_files_modes_turns_and_duplicates(tmp_path):
    write(tmp_path / "good.jpg", (640, 480))
    write(tmp_path / "gray.jpg", (64, 48), "L")
    write(tmp_path / "cmyk.jpg", (64, 48), "CMYK")
    write(tmp_path / "turned.jpg", (64, 48), orientation=3)
    write(tmp_path / "palette.png", (64, 48), "P")
    write(tmp_path / "alpha.png", (64, 48), "RGBA")
    Image.fromarray(np.full((48, 64), 40_000, np.uint16)).save(tmp_path / "deep.png")
    data = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 3])
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html>")
    (tmp_path / "copy.jpg").write_bytes(data)
    headers = {str(path): images.read_header(str(path), decode=True) for path in sorted(tmp_path.iterdir())}
    said = {(fault.kind, fault.text.partition(":")[0]) for fault in images.header_faults(headers)}
    assert said == {
        ("broken-image", "cut.jpg"),
        ("broken-image", "page.jpg"),
        *(("image-mode", name) for name in ("cmyk.jpg", "palette.png", "alpha.png", "deep.png")),
        ("turned-image", "turned.jpg"),
    }
    good, copy = str(tmp_path / "good.jpg"), str(tmp_path / "copy.jpg")
    (duplicate,) = images.duplicates({good: headers[good]}, {path: headers[path] for path in headers if path != good})
    assert duplicate.text == f"{copy} is {good}"


def test_missing_images_are_found_in_sub_folders_too(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.jpg").touch()
    names = [str(tmp_path / name) for name in ("a.jpg", "b/c.jpg", "d/e.jpg")]
    assert images.missing(names) == [names[0], names[2]]


# ------------------------------------------------------------------------------------------------------------ anchors
def test_best_overlap_is_that_with_all_anchors_of_the_grid():
    pytest.importorskip("mmdet")
    from mmdet.structures.bbox import bbox_overlaps

    cfg = Config.fromfile(CONFIG)
    init_default_scope("mmdet")
    assert statistics.resize_of(cfg) == ((1333, 800), True)
    assert statistics.resized((640, 480), ((1333, 800), True)) == (1067, 800)
    generator = statistics.anchors_of(cfg)
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(-5, 300, (40, 2)), np.exp(rng.uniform(1, 6, (40, 2)))], axis=1)
    corners = torch.tensor(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)).float()
    padded = np.tile([[352.0, 320.0]], (40, 1))
    grid = [(-(-320 // h), -(-352 // w)) for w, h in generator.strides]
    anchors = torch.cat(generator.grid_priors(grid, device="cpu"))
    expected = bbox_overlaps(corners, anchors).max(1).values.numpy()
    np.testing.assert_allclose(statistics.best_ious(boxes, padded, generator), expected, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- train, check-data
def copied(source: Path, folder: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    return folder


@pytest.fixture
def spoilt(data: Path, tmp_path: Path) -> Path:
    return copied(data, tmp_path / "data")


def change(folder: Path, edit) -> Path:
    """Edits the training annotations."""
    file = folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["images"].append(c["images"][0]), "1 x duplicate-image-id (annotations could belong to either"),
        (lambda c: c["annotations"].clear(), "1 x no-annotations"),
        (lambda c: c.pop("categories"), "1 x missing-key"),
        (lambda c: [a.update(segmentation=[]) for a in c["annotations"]], "1 x no-masks"),
        (lambda c: [a.pop("bbox") for a in c["annotations"]], "1 x no-annotations"),
        (lambda c: c["images"][1].update(file_name="no.jpg"), "train2017/no.jpg"),
    ],
    ids=["image ids", "no annotations", "no categories", "no masks", "no boxes", "no image"],
)
def test_training_refuses_what_no_rule_repairs(edit, message, spoilt, tmp_path, fail):
    change(spoilt, edit)
    said = fail("train", CONFIG, "--data-root", spoilt, "--work-dir", tmp_path / "work")
    assert message in said
    assert not (tmp_path / "work").exists()


def test_training_refuses_pages_under_the_names_of_files(spoilt, tmp_path, fail):
    image = next((spoilt / "train2017").iterdir())
    image.write_text("<!DOCTYPE html>")
    said = fail("train", CONFIG, "--data-root", spoilt, "--work-dir", tmp_path / "work")
    assert f"{image}: no image: begins with b'<!DOCTYPE html>'" in said
    file = spoilt / "annotations" / "instances_val2017.json"
    file.write_text("<!DOCTYPE html>")
    said = fail("train", CONFIG, "--data-root", spoilt, "--work-dir", tmp_path / "work")
    assert f"{file}: 1 x not-json (the file must be JSON): begins with b'<!DOCTYPE html>'" in said


@pytest.mark.slow
def test_training_reads_a_repaired_copy_and_logs_the_counts(spoilt, tmp_path):
    def edit(content):
        first, second, third, *_ = content["annotations"]
        first["bbox"][0] = math.nan
        second["bbox"][2] = third["bbox"][3] = 0

    file = change(spoilt, edit)
    original, work = file.read_bytes(), tmp_path / "work"
    short = options(**{"train_dataloader.dataset.indices": 2, "train_cfg.max_epochs": 1, "train_cfg.val_interval": 1})
    result = run("train", CONFIG, "--data-root", spoilt, "--work-dir", work, *short)
    assert result.returncode == 0, result.stderr
    assert file.read_bytes() == original
    (copy,) = (work / "repaired").iterdir()
    content = json.loads(original)
    assert json.loads(copy.read_text()) == {**content, "annotations": content["annotations"][3:]}
    cfg = Config.fromfile(work / CONFIG.name)
    assert cfg.train_dataloader.dataset.dataset.ann_file == str(copy)
    assert cfg.val_dataloader.dataset.ann_file == "annotations/instances_val2017.json"  # untouched, so no copy
    (log,) = work.glob("*/*.log")
    assert f"data: repaired: {file}: 1 x non-finite-box (annotation dropped): annotation" in log.read_text()
    assert f"data: repaired: {file}: 2 x empty-box (annotation dropped: width and height" in log.read_text()


def check(*arguments) -> int:
    return cli.run("check-data", list(map(str, arguments)))


@pytest.mark.slow
def test_check_data_tells_clean_repaired_and_refused_data_apart(data, spoilt, tmp_path, capsys, fail, monkeypatch):
    monkeypatch.setattr(page_module, "SAMPLES", 2)
    arguments = (CONFIG, "--data-root")
    assert check(*arguments, data, "--full") == 0
    assert capsys.readouterr().out == "no faults\n"
    file = change(spoilt, lambda content: content["annotations"][0].update(category_id=999))
    assert check(*arguments, spoilt) == 0
    first, rule, case = capsys.readouterr().out.splitlines()
    assert first.split() == ["repaired", "1", "unknown-category-id", str(file)]
    assert rule.strip() == "annotation dropped"
    assert case.strip().endswith("category_id 999")
    image = next((spoilt / "val2017").iterdir())
    image.write_bytes(image.read_bytes()[:3000])
    page = tmp_path / "page.html"
    assert check(*arguments, spoilt, "--full", "--html", page) == 1
    assert f"{image.name}: OSError: image file is truncated" in capsys.readouterr().out
    text = page.read_text()
    assert "unknown-category-id" in text
    assert "with an anchor of IoU 0.5 or more" in text
    assert "://" not in text  # opens without a network
    assert "page.html exists" in fail("check-data", *arguments, data, "--html", page)
    assert "the data set does not exist" in fail("check-data", *arguments, tmp_path / "nothing")
    assert file.is_file()
    assert not (Path("work_dirs") / CONFIG.stem / "repaired").exists()


@pytest.mark.slow
def test_masks_are_all_checked_by_full_only(tmp_path, capsys, monkeypatch):
    pytest.importorskip("mmseg")
    if not (source := SHARED / "data" / "coco_semantic_tiny").is_dir():
        pytest.skip(f"{source} is not there")
    monkeypatch.setattr(page_module, "SAMPLES", 2)
    folder, page = copied(source, tmp_path / "data"), tmp_path / "page.html"
    arguments = (ROOT / "configs" / "revcol_upernet_custom.py", "--data-root", folder)
    assert check(*arguments, "--full") == 0
    mask = sorted((folder / "annotations" / "train").iterdir())[23]
    Image.open(mask).resize((64, 64), Image.Resampling.NEAREST).save(mask)
    assert check(*arguments) == 0  # the first 20
    capsys.readouterr()
    assert check(*arguments, "--full", "--html", page) == 1
    assert f"{mask} is 64 x 64, its image" in capsys.readouterr().out
    assert "pixels of each class, %" in page.read_text()


@pytest.mark.slow
def test_labelled_images_are_decoded_and_compared(tmp_path, capsys, monkeypatch):
    pytest.importorskip("mmpretrain")
    if not (source := SHARED / "data" / "flowers_small").is_dir():
        pytest.skip(f"{source} is not there")
    monkeypatch.setattr(page_module, "SAMPLES", 2)
    folder, page = copied(source, tmp_path / "data"), tmp_path / "page.html"
    arguments = (ROOT / "configs" / "revcol_flowers.py", "--data-root", folder)
    one, other, *_ = sorted((folder / "train" / "roses").iterdir())
    shutil.copy(one, folder / "val" / "tulips" / "same.jpg")
    other.write_bytes(b"")
    assert check(*arguments, "--full", "--html", page) == 1
    said = capsys.readouterr().out
    assert f"{folder}/val/tulips/same.jpg is {one}" in said
    assert f"{other.name}: no image: begins with b''" in said
    assert "images of each class" in page.read_text()


@pytest.mark.slow
def test_commands_of_the_learn_page_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "SAMPLES", 2)
    (block,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "learn" / "check-data.md").read_text(), re.DOTALL)
    names = {"CONFIG": CONFIG, "data/coco": data, "data.html": tmp_path / "data.html"}
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 2
    for program, *words in commands:
        assert program == "densebackbones"
        assert cli.main([str(names.get(word, word)) for word in words]) == 0
    assert (tmp_path / "data.html").is_file()
