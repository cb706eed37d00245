"""``sample-data`` makes a valid, repeatable COCO data set and never touches anything else."""

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from tool_runs import run, verb

SPLITS = {"train2017": 8, "val2017": 6}

# pycocotools' arrays on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


OPTIONS = ("--train", 8, "--val", 6, "--size", 96)


def make(out: Path, *options) -> None:
    verb("sample-data", out, *OPTIONS, *options)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "sample_coco"
    result = run("sample-data", root, *OPTIONS)
    assert result.returncode == 0, result.stderr
    return root


@pytest.fixture(params=SPLITS)
def split(sample: Path, request: pytest.FixtureRequest) -> tuple[COCO, Path]:
    return COCO(sample / "annotations" / f"instances_{request.param}.json"), sample / request.param


def test_layout_is_that_of_coco_2017(sample):
    files = Counter(str(Path(name).parent) for name in contents(sample))
    assert files == {"annotations": 2, **SPLITS}
    assert [path.name for path in sample.parent.iterdir()] == ["sample_coco"]


def test_same_arguments_give_the_same_bytes(sample, tmp_path):
    make(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(sample)


def test_another_seed_gives_other_images(sample, tmp_path):
    make(tmp_path / "other", "--seed", 1)
    first, second = contents(sample), contents(tmp_path / "other")
    assert [name for name in first if first[name] == second[name]] == []


def test_larger_data_set_begins_with_the_smaller_ones_images(sample, tmp_path):
    make(tmp_path / "larger", "--train", 9)
    larger = contents(tmp_path / "larger")
    names = [f"train2017/{i:012d}.jpg" for i in range(1, 9)]
    assert [larger[name] for name in names] == [contents(sample)[name] for name in names]


def test_images_match_the_annotations(split):
    coco, folder = split
    assert {image["file_name"] for image in coco.imgs.values()} == {path.name for path in folder.iterdir()}
    for image in coco.imgs.values():
        assert cv2.imread(folder / image["file_name"]).shape == (image["height"], image["width"], 3) == (96, 96, 3)


def test_splits_share_no_image_id(sample):
    ids = [{i["id"] for i in json.loads(path.read_text())["images"]} for path in (sample / "annotations").iterdir()]
    assert len(ids[0] | ids[1]) == sum(SPLITS.values())


def test_area_and_box_are_those_of_the_mask(split):
    coco, _ = split
    for ann in coco.anns.values():
        mask = coco.annToMask(ann)
        ys, xs = mask.nonzero()
        assert ann["area"] == mask.sum() > 0
        assert ann["bbox"] == [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]


def test_masks_are_visible_parts_and_hardly_overlap(split):
    coco, _ = split
    covered = Counter()
    for image in coco.imgs:
        masks = [coco.annToMask(ann) for ann in coco.imgToAnns[image]]
        covered.update(np.sum(masks, axis=0).ravel().tolist() if masks else [])
    assert sum(covered[n] for n in covered if n > 1) < 0.01 * covered[1]


def test_masks_lie_on_the_objects(split):
    coco, folder = split  # objects are vivid, backgrounds pale
    for image in coco.loadImgs(coco.imgs):
        saturation = cv2.cvtColor(cv2.imread(folder / image["file_name"]), cv2.COLOR_BGR2HSV)[..., 1]
        anns = coco.imgToAnns[image["id"]]
        objects = np.any([np.zeros((96, 96)), *map(coco.annToMask, anns)], axis=0)
        for ann in anns:
            assert saturation[coco.annToMask(ann) == 1].mean() > saturation[~objects].mean() + 10


def test_crowd_empty_image_polygons_and_holes_occur_in_each_split(split):
    coco, _ = split
    forms = {(ann["iscrowd"], type(ann["segmentation"])) for ann in coco.anns.values()}
    assert forms == {(0, list), (0, dict), (1, dict)}
    assert {len(coco.getAnnIds(image)) == 0 for image in coco.imgs} == {True, False}


def test_mmdet_reads_every_mask(sample):
    from mmdet.datasets import CocoDataset
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    content = json.loads((sample / "annotations" / "instances_train2017.json").read_text())
    dataset = CocoDataset(
        data_root=str(sample),
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        metainfo=dict(classes=[category["name"] for category in content["categories"]]),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="PackDetInputs", meta_keys=()),
        ],
    )
    samples = [item["data_samples"] for item in dataset]
    crowds = [ann["area"] for ann in content["annotations"] if ann["iscrowd"]]
    objects = [ann["area"] for ann in content["annotations"] if not ann["iscrowd"]]
    assert [area for s in samples for area in s.gt_instances.masks.areas] == objects
    assert [area for s in samples for area in s.ignored_instances.masks.areas] == crowds


def test_second_call_finds_nothing_to_do(sample, capsys):
    before = contents(sample)
    make(sample)
    assert capsys.readouterr().out == f"{sample}: already there, nothing to do\n"
    assert contents(sample) == before


@pytest.mark.parametrize("state", ["other settings", "image missing", "not a data set"])
def test_folder_that_holds_something_else_is_left_alone(sample, tmp_path, fail, state):
    out = tmp_path / "out"
    if state == "not a data set":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    else:
        shutil.copytree(sample, out)
    if state == "image missing":
        next((out / "val2017").iterdir()).unlink()
    before = contents(out)
    message = fail("sample-data", out, *OPTIONS, *(["--seed", 1] if state == "other settings" else []))
    assert message == f"{out} exists and is not this data set; name another folder, or remove it first\n"
    assert contents(out) == before


@pytest.mark.parametrize("option, value", [("--train", 1), ("--val", 0), ("--size", 63), ("--seed", -1)])
def test_number_out_of_range_ends_with_its_name_and_writes_nothing(tmp_path, fail, option, value):
    message = fail("sample-data", tmp_path / "out", *OPTIONS, option, value)
    assert message.startswith(f"{option} is {value}; it must be at least ")
    assert list(tmp_path.iterdir()) == []
