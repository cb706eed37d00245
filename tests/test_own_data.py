"""Labelled folders in any config: layouts, splits, numbers of classes, and box-only data."""

import json
import re
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED
from mmengine.config import Config
from mmengine.registry import init_default_scope
from test_tools import SMALL as SMALL_DETECTOR
from tool_runs import ROOT, verb

from backbones.config.hosts import find_config
from backbones.config.lookup import import_host
from backbones.config.own_data import choose_classes, own_data_changes, task_of
from backbones.config.write import delta
from backbones.datasets.doctor import page
from backbones.datasets.layouts import Labelled, Split, find_layout
from backbones.usage import UsageError

ONE_PROCESS = [
    option
    for loop in ("train", "val")
    for option in (f"{loop}_dataloader.num_workers=0", f"{loop}_dataloader.persistent_workers=False")
]
SMALL = ["train_dataloader.dataset.indices=4", "val_dataloader.dataset.indices=2", *ONE_PROCESS]
PIPELINE = "train_dataloader.dataset.pipeline"
SMALL_MODEL = {
    **{key: value for key, value in SMALL_DETECTOR.items() if key.startswith("model.")},
    f"{PIPELINE}.2.scales": "[(96,96)]",
    "val_dataloader.dataset.pipeline.1.scale": "(96,96)",
    "test_dataloader.dataset.pipeline.1.scale": "(96,96)",
    "train_cfg.max_epochs": 1,
    "param_scheduler.0.end": 2,
}
RCNN = "model.roi_head"
NUMBERS = {  # stock config: places of the numbers of classes
    "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py": ["model.bbox_head.num_classes"],
    "mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py": [f"{RCNN}.bbox_head.num_classes"],
    "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py": [
        *(f"{RCNN}.bbox_head.{i}.num_classes" for i in range(3)),
        f"{RCNN}.mask_head.num_classes",
    ],
    "mmdet::htc/htc-without-semantic_r50_fpn_1x_coco.py": [
        *(f"{RCNN}.bbox_head.{i}.num_classes" for i in range(3)),
        *(f"{RCNN}.mask_head.{i}.num_classes" for i in range(3)),
    ],
    "mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py": [
        f"{RCNN}.bbox_head.num_classes",
        f"{RCNN}.mask_head.num_classes",
    ],
    "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py": ["model.bbox_head.num_classes"],
    "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py": [
        "model.panoptic_head.num_things_classes",
        "model.panoptic_head.loss_cls.class_weight",
        "model.panoptic_fusion_head.num_things_classes",
    ],
    "mmdet::solov2/solov2_r50_fpn_1x_coco.py": ["model.mask_head.num_classes"],
    "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py": ["model.bbox_head.num_classes"],
    "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py": [
        "model.decode_head.num_classes",
        "model.auxiliary_head.num_classes",
    ],
    "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py": [
        "model.decode_head.num_classes",
        "model.decode_head.loss_cls.class_weight",
    ],
    "mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py": [
        "model.head.num_classes",
        "data_preprocessor.num_classes",
    ],
}


def stock(name: str) -> Config:
    cfg = Config.fromfile(find_config(name))
    import_host(cfg.default_scope)
    init_default_scope(cfg.default_scope)
    return cfg


def labelled(task: str, **changes) -> Labelled:
    kinds = dict(
        detection="CocoDataset",
        panoptic="CocoPanopticDataset",
        segmentation="BaseSegDataset",
        classification="CustomDataset",
    )
    evaluator = dict(ann_file="D/val.json") if task in ("detection", "panoptic") else {}
    train, val = (dict(type=kinds[task], data_root="D", data_prefix=name) for name in ("train", "val"))
    return Labelled(**{**dict(classes=("a", "b", "c"), train=train, val=val, evaluator=evaluator), **changes})


def with_own_data(cfg: Config, data: Labelled, **options) -> Config:
    cfg.merge_from_dict(delta(cfg, own_data_changes(cfg, data, data.classes, **options)))
    return cfg


def value(cfg: Config, key: str):
    node = cfg
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, (list, tuple)) else node[part]
    return node


# ---------------------------------------------------------------------------------------------------------- the config
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_classes_follows_and_no_other(name):
    cfg = stock(name)
    data = labelled(task_of(cfg))
    changed = {
        change.key for change in own_data_changes(cfg, data, data.classes) if change.key.startswith(("model", "data_"))
    }
    assert changed == set(NUMBERS[name])
    cfg = with_own_data(cfg, data)
    for key in NUMBERS[name]:
        assert value(cfg, key) == ([1.0, 1.0, 1.0, 0.1] if key.endswith("class_weight") else 3)
    for loop in ("train", "val", "test"):
        dataset = cfg[f"{loop}_dataloader"].dataset
        dataset = dataset.get("dataset", dataset)
        source = data.train if loop == "train" else data.val
        assert (dataset.type, dataset.data_prefix) == (source["type"], source["data_prefix"])
        assert tuple(dataset.metainfo.classes) == data.classes
        assert len(dataset.metainfo.palette) == 3
    if cfg.default_scope == "mmdet":
        assert (cfg.val_evaluator.type, cfg.val_evaluator.ann_file) == ("CocoMetric", "D/val.json")
    if cfg.default_scope == "mmseg":
        assert cfg.train_dataloader.dataset.pipeline[1].reduce_zero_label is False
    if cfg.default_scope == "mmpretrain":
        assert tuple(cfg.val_evaluator.topk) == (1,)


def test_panoptic_heads_get_things_and_stuff():
    cfg = stock("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py")
    assert task_of(cfg) == "panoptic"
    evaluator = dict(ann_file="D/panoptic.json", seg_prefix="D/segments")
    cfg = with_own_data(cfg, labelled("panoptic", stuff=("c",), evaluator=evaluator))
    head = cfg.model.panoptic_head
    assert (head.num_things_classes, head.num_stuff_classes, len(head.loss_cls.class_weight)) == (2, 1, 4)
    metainfo = cfg.train_dataloader.dataset.metainfo
    assert (metainfo.thing_classes, metainfo.stuff_classes) == (("a", "b"), ("c",))
    (metric,) = cfg.val_evaluator
    assert (metric.type, metric.seg_prefix) == ("CocoPanopticMetric", "D/segments")


def test_mask_branch_without_masks_is_refused_or_removed():
    name = "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py"
    data = labelled("detection", has_masks=False)
    with pytest.raises(UsageError, match="objects of the data have boxes, but no masks.*--boxes-only removes it"):
        own_data_changes(stock(name), data, data.classes)
    cfg = with_own_data(stock(name), data, boxes_only=True)
    assert (cfg.model.roi_head.mask_head, cfg.model.roi_head.mask_roi_extractor) == (None, None)
    assert [step.with_mask for step in cfg.train_dataloader.dataset.pipeline if "with_mask" in step] == [False]
    assert cfg.val_evaluator.metric == ["bbox"]
    assert [head.num_classes for head in cfg.model.roi_head.bbox_head] == [3, 3, 3]
    with pytest.raises(UsageError, match="this model is a SOLOv2. Take the config of a box detector"):
        own_data_changes(stock("mmdet::solov2/solov2_r50_fpn_1x_coco.py"), data, data.classes, boxes_only=True)


def test_boxes_only_reaches_every_pipeline():
    cfg = stock("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(type="FilterAnnotations", by_mask=True))
    cfg.custom_hooks = [dict(type="PipelineSwitchHook", switch_epoch=1, switch_pipeline=cfg.train_pipeline)]
    data = labelled("detection", has_masks=False)
    cfg = with_own_data(cfg, data, boxes_only=True)
    assert cfg.custom_hooks[0].switch_pipeline[1].with_mask is False
    assert cfg.train_dataloader.dataset.pipeline[2].by_mask is False
    cfg = stock("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    cfg.train_dataloader.dataset.pipeline.append(dict(type="CopyPaste"))
    with pytest.raises(UsageError, match="CopyPaste in the pipeline cuts objects out by their masks; remove it"):
        own_data_changes(cfg, data, data.classes, boxes_only=True)


def test_semantic_branch_without_maps_is_refused():
    data = labelled("detection")
    with pytest.raises(UsageError, match="the data have none; take a config without it, such as.*htc-without-semantic"):
        own_data_changes(stock("mmdet::htc/htc_r50_fpn_1x_coco.py"), data, data.classes)


def test_rpn_has_no_classes():
    cfg = stock("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
    cfg.train_dataloader.dataset.metainfo = dict(classes=("one",))
    cfg.model.roi_head.bbox_head.num_classes = cfg.model.rpn_head.num_classes = 1
    cfg = with_own_data(cfg, labelled("detection"))
    assert (cfg.model.rpn_head.num_classes, cfg.model.roi_head.bbox_head.num_classes) == (1, 3)


# ------------------------------------------------------------------------------------------------------------- layouts
def test_layouts_are_found_by_looking(sample, tmp_path):
    found = find_layout(sample, "detection")
    assert found.classes == ("disc", "rectangle", "triangle", "star", "ring")
    assert found.has_masks
    assert found.train["ann_file"] == "annotations/instances_train2017.json"
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        UsageError, match=r"no layout for detection. It holds notes.txt. The layouts are(.|\n)*VOC:(.|\n)*YOLO:"
    ):
        find_layout(tmp_path, "detection")
    with pytest.raises(UsageError, match="there is no folder nowhere"):
        find_layout("nowhere", "detection")


def test_one_file_is_split_by_image_once(sample, tmp_path):
    shutil.copytree(sample / "train2017", tmp_path / "images")
    shutil.copy(sample / "annotations" / "instances_train2017.json", tmp_path / "labels.json")
    before = (tmp_path / "labels.json").read_bytes()
    found = find_layout(tmp_path, "detection", Split(0.25))
    parts = [json.loads((tmp_path / part["ann_file"]).read_text()) for part in (found.train, found.val)]
    ids = [{image["id"] for image in part["images"]} for part in parts]
    assert (len(ids[0]), len(ids[1]), ids[0] & ids[1]) == (18, 6, set())
    assert all({a["image_id"] for a in part["annotations"]} <= own for part, own in zip(parts, ids, strict=True))
    assert find_layout(tmp_path, "detection", Split(0.25)) == found
    with pytest.raises(UsageError, match=r"split_train.json exists with other content and is left alone"):
        find_layout(tmp_path, "detection", Split(0.5))
    assert (tmp_path / "labels.json").read_bytes() == before


def test_few_masks_are_no_masks(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"][1:]:
        annotation["segmentation"] = []
    file.write_text(json.dumps(content))
    assert not find_layout(tmp_path / "data", "detection").has_masks
    file.write_text(json.dumps({**content, "annotations": "none"}))
    with pytest.raises(UsageError, match="missing-key"):
        find_layout(tmp_path / "data", "detection")


def test_index_masks_are_split(tmp_path):
    from mmseg.datasets import BaseSegDataset

    images(tmp_path / "images" / "a", ["0", "1"])
    images(tmp_path / "images" / "b", ["2", "3"])
    for file in (tmp_path / "images").rglob("*.jpg"):
        mask = tmp_path / "annotations" / file.relative_to(tmp_path / "images").with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(mask), np.zeros((40, 60), np.uint8))
    with pytest.raises(UsageError, match="no classes.txt"):
        find_layout(tmp_path, "segmentation")
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    found = find_layout(tmp_path, "segmentation", Split(0.5))
    names = []
    for part in (found.train, found.val):
        settings = {key: value for key, value in part.items() if key != "type"}
        for info in BaseSegDataset(**settings, metainfo=dict(classes=found.classes)):
            assert Path(info["seg_map_path"]).is_file()
            names.append(Path(info["img_path"]).relative_to(tmp_path / "images").as_posix())
    assert (sorted(names), len(set(names[:2]))) == (["a/0.jpg", "a/1.jpg", "b/2.jpg", "b/3.jpg"], 2)


def test_split_is_stratified_and_seeded():
    classes_of = {i: ["rare", "common"] if i < 20 else ["common"] for i in range(100)}
    chosen = Split(0.2, seed=1).validation(classes_of)
    assert (len(chosen), len(chosen & set(range(20)))) == (20, 4)
    assert Split(0.2, seed=1).validation(classes_of) == chosen != Split(0.2, seed=2).validation(classes_of)
    with pytest.raises(UsageError, match="--val-share is 1.5; it must lie between 0 and 1"):
        Split(1.5)


def images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / f"{name}.jpg"), np.full((40, 60, 3), 127, np.uint8))


def boxes_of(folder: Path, part: dict) -> list[tuple]:
    content = json.loads((folder / part["ann_file"]).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for file in files.values():
        assert (folder / part["data_prefix"]["img"] / file).is_file()
    return [(files[a["image_id"]], names[a["category_id"]], *map(round, a["bbox"])) for a in content["annotations"]]


def test_pascal_voc_is_converted(tmp_path):
    images(tmp_path / "JPEGImages", ["a", "b", "c"])
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    for name, kind, left in (("a", "cat", 11), ("b", "dog", 21), ("c", "dog", 1)):
        (tmp_path / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename>"
            "<size><width>60</width><height>40</height><depth>3</depth></size>"
            f"<object><name>{kind}</name>"
            f"<bndbox><xmin>{left}</xmin><ymin>6</ymin><xmax>{left + 20}</xmax><ymax>16</ymax></bndbox></object>"
            "</annotation>"
        )
    found = find_layout(tmp_path, "detection")
    assert (found.classes, found.has_masks) == (("cat", "dog"), False)
    assert boxes_of(tmp_path, found.train) == [("a.jpg", "cat", 10, 5, 21, 11)]  # VOC's last pixel is inside
    assert boxes_of(tmp_path, found.val) == [("b.jpg", "dog", 20, 5, 21, 11)]
    time.sleep(1.1)  # supervision writes the time in seconds
    assert find_layout(tmp_path, "detection") == found


@pytest.mark.parametrize(
    "place", ["images/train labels/train images/val labels/val", "train/images train/labels valid/images valid/labels"]
)
def test_yolo_is_converted(tmp_path, place):
    folders = [tmp_path / name for name in place.split()]
    (tmp_path / "data.yaml").parent.mkdir(exist_ok=True)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\nnc: 2\n")
    for name, kind, where, labels in (("a", 0, *folders[:2]), ("b", 1, *folders[2:])):
        images(where, [name])
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{name}.txt").write_text(f"{kind} 0.5 0.5 0.5 0.5\n")
    found = find_layout(tmp_path, "detection")
    assert (found.classes, found.has_masks) == (("cat", "dog"), False)
    assert [box[1:] for box in boxes_of(tmp_path, found.train)] == [("cat", 15, 10, 30, 20)]
    assert [box[1:] for box in boxes_of(tmp_path, found.val)] == [("dog", 15, 10, 30, 20)]


def test_categories_in_another_order_are_refused(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "data")
    file = tmp_path / "data" / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["categories"].reverse()
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="mmdet numbers them by their order, so both files need the same list"):
        find_layout(tmp_path / "data", "detection")


def test_file_chooses_classes(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("c\na\n")
    assert choose_classes(labelled("detection"), str(file)) == ("a", "c")
    with pytest.raises(UsageError, match="leaves out b; only boxes can be left out"):
        choose_classes(labelled("segmentation"), str(file))
    file.write_text("a\nz\n")
    with pytest.raises(UsageError, match="names z; the data have a, b, c"):
        choose_classes(labelled("detection"), str(file))


# ----------------------------------------------------------------------------------------------------------- trainings
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # the hosts, while they train
def test_commands_of_the_learn_page_run(sample, tmp_path, fail, capsys, monkeypatch):
    cells = SHARED / "data" / "bccd_small"
    if not cells.is_dir():
        pytest.skip(f"the photographs are not there: {cells}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "SAMPLES", 2)
    text = (ROOT / "docs" / "learn" / "own-detection-data.md").read_text()
    commands = [line.split() for line in re.findall(r"python tools/([^`\n]+)", text)]
    verbs = "train test train check_data drop_in train predict export"
    assert [words[0] for words in commands] == [f"{verb}.py" for verb in verbs.split()]
    config = f"{ROOT}/configs/revcol_maskrcnn_finetune.py"

    def run(words: list[str], folder: Path, checkpoint: Path, *more: str) -> None:
        names = {"FOLDER": folder, "CHECKPOINT": checkpoint, "CONFIG": config}
        names |= {"configs/revcol_maskrcnn_finetune.py": config, "photographs": folder / "val2017"}
        names |= {"work_dirs/my_config/epoch_12.pth": "work_dirs/my_config/epoch_1.pth"}
        name = words[0].removesuffix(".py").replace("_", "-")
        verb(name, *[names.get(word, word) for word in words[1:]], *more)

    def small(folder: str, mask: bool = True) -> list[str]:
        kept = {key: value for key, value in SMALL_MODEL.items() if mask or "mask_" not in key}
        return ["--work-dir", folder, "--cfg-options", *(f"{key}={value}" for key, value in kept.items()), *SMALL]

    shapes, boxes = Path("shapes/epoch_1.pth"), Path("boxes/epoch_1.pth")
    run(commands[0], sample, shapes, *small("shapes"))
    run(commands[1], sample, shapes, *small("test"))
    assert "--boxes-only removes it" in fail("train", config, "--data-root", cells, "--classes", "auto")
    run(commands[2], cells, shapes, *small("boxes", mask=False), f"load_from={shapes}")
    assert "but initialised: roi_head.bbox_head.fc_cls.weight (file (6, 32), model (4, 32))" in capsys.readouterr().err
    trained = torch.load(boxes, weights_only=False)
    assert trained["state_dict"]["roi_head.bbox_head.fc_cls.weight"].shape[0] == 3 + 1
    assert trained["meta"]["dataset_meta"]["classes"] == ("RBC", "WBC", "Platelets")
    run(commands[3], sample, boxes)
    run(commands[4], sample, boxes, "--arch", "nano")
    assert Path("data.html").is_file()
    cfg = Config.fromfile("my_config.py")
    assert cfg.model.bbox_head.num_classes == 5
    assert cfg.train_dataloader.dataset.data_root == str(sample)
    assert cfg.train_dataloader.dataset.metainfo.classes == ("disc", "rectangle", "triangle", "star", "ring")
    sizes = [f"{loop}_dataloader.dataset.pipeline.{i}.scale=(96,96)" for loop, i in (("train", 2), ("val", 1))]
    run(commands[5], sample, boxes, "--cfg-options", "train_cfg.max_epochs=1", *sizes, *SMALL)
    run(commands[6], sample, boxes, "--cfg-options", "test_dataloader.dataset.pipeline.1.scale=(96,96)")
    assert len(list(Path("predictions/pictures").iterdir())) == 4
    run(commands[7], sample, boxes)
    assert Path("model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # the hosts, while they train
def test_classifier_trains_on_folders_without_a_split(tmp_path):
    photographs = SHARED / "data" / "flowers_small" / "train"
    if not photographs.is_dir():
        pytest.skip(f"the photographs are not there: {photographs}")
    data = tmp_path / "flowers"
    for flower in photographs.iterdir():
        (data / flower.name).mkdir(parents=True)
        for image in sorted(flower.iterdir())[:5]:
            shutil.copy(image, data / flower.name)
    given = ("--data-root", data, "--classes", "auto", "--work-dir", tmp_path / "work")
    ends = ["param_scheduler.0.end=1", "param_scheduler.1.end=2", "param_scheduler.1.begin=1"]
    short = ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", *ends]
    verb("train", "densebackbones::revcol_flowers.py", *given, "--cfg-options", *short, *SMALL)
    assert (tmp_path / "work" / "epoch_1.pth").is_file()
    assert [len((data / f"split_{name}.txt").read_text().splitlines()) for name in ("train", "val")] == [20, 5]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")  # the hosts, while they train
def test_segmentor_trains(tmp_path):
    photographs = SHARED / "data" / "coco_semantic_tiny"
    if not photographs.is_dir():
        pytest.skip(f"the photographs are not there: {photographs}")
    given = ("--data-root", photographs, "--classes", "auto", "--work-dir", tmp_path)
    short = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "train_dataloader.batch_size=2"]
    ends = ["param_scheduler.0.end=1", "param_scheduler.1.end=2", "param_scheduler.1.begin=1"]
    verb("train", "densebackbones::revcol_upernet_overfit.py", *given, "--cfg-options", *short, *SMALL, *ends)
    assert list(tmp_path.glob("*.pth"))
