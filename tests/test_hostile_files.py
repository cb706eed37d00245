"""Annotation files and options of the command line that nobody meant."""

import argparse
import copy
import json
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hostile import CASES, JUNK, check, result_or_named_error
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO
from tool_runs import ROOT

from backbones.cli import _runs
from backbones.config.options import merge_options
from backbones.datasets.doctor import annotations, images
from backbones.datasets.layouts import find_layout
from backbones.usage import UsageError

# -------------------------------------------------------------------------------------------------- annotation files
SQUARE = [4, 4, 20, 4, 20, 20, 4, 20]
CONTENT = {
    "images": [dict(id=i, file_name=f"{i}.png", width=40, height=30) for i in (1, 2, 3)],
    "annotations": [
        dict(id=1, image_id=1, category_id=1, bbox=[4, 4, 16, 16], area=256, iscrowd=0, segmentation=[SQUARE]),
        dict(id=2, image_id=1, category_id=2, bbox=[0, 0, 5, 5], area=25, iscrowd=0, segmentation=[SQUARE]),
        dict(id=3, image_id=2, category_id=1, bbox=[1, 2, 3, 4], area=12, iscrowd=1)
        | dict(segmentation=dict(size=[30, 40], counts=[100, 50, 1050])),
        dict(id=4, image_id=3, category_id=2, bbox=[1, 2, 3, 4], area=12, iscrowd=0)
        | dict(segmentation=dict(size=[30, 40], counts="ii02b0LPP`0")),
    ],
    "categories": [dict(id=1, name="a"), dict(id=2, name="b")],
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from([10**400, -(10**400), 1e308, "4", "1.png", "../1.png", "/dev/zero", "a\0b", "\ud800", [], {}]),
    st.lists(st.one_of(st.floats(), st.integers(-100, 10**12), st.text(max_size=2)), max_size=9),
    st.sampled_from(
        [
            [SQUARE, SQUARE],
            [[1, 2]],
            [[1, 2, 3, 4, 5, 10**400]],
            dict(size=[30, 40], counts=[1200]),
            dict(size=[30, 40], counts=[-1, 1201]),
            dict(size=[10**6, 10**6], counts=[10**12]),
            dict(size=[30, 40], counts="\u00ff" * 9),
            dict(size=[30, 40], counts="zzzzzzzzzzzzzzz"),
            dict(size=["a", "b"], counts="12"),
            dict(size=[30], counts=[3]),
            dict(counts=[3]),
        ]
    ),
)


def places(node, where=()):
    """Every place in a tree of dicts and lists."""
    yield where
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*where, key))


PLACES = list(places(CONTENT))
ANNOTATIONS = st.tuples(
    st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "set", "delete", "double"]), VALUES), max_size=4
    ),
    st.sampled_from(["", "", "", "", "", "cut", "[" * 10**5, "1" * 5000, "\ufeff", "\0", "NaN"]),
)


def changed(changes):
    content = copy.deepcopy(CONTENT)
    for place, action, value in changes:
        node, value = content, copy.deepcopy(value)
        try:
            for key in place[:-1]:
                node = node[key]
            if not place:
                content = value
            elif action == "set":
                node[place[-1]] = value
            elif action == "delete":
                del node[place[-1]]
            else:
                node.append(node[place[-1]])
        except (KeyError, IndexError, TypeError, AttributeError):  # an earlier change took the place away
            continue
    return content


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in (1, 2, 3):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((30, 40, 3), np.uint8))
    return folder


@CASES
def test_annotation_files(cases, pictures):
    """What is left after the repair can be trained on, and every annotation that is not left has a fault."""
    file = pictures / "all.json"

    def examine(case):
        changes, damage = case
        data = json.dumps(changed(changes))
        file.write_text(data[: len(data) // 2] if damage == "cut" else damage + data, errors="surrogatepass")
        content, faults = annotations.read(str(file))
        if faults:
            assert all(fault.outcome == "refused" and fault.text for fault in faults)
            return
        found = images.coco_faults(content, str(file), str(pictures), None)
        sized = annotations.repair(content, found)
        found += annotations.find_faults(sized, str(file), masks=True)
        if any(fault.outcome == "refused" for fault in found):
            return
        repaired = annotations.repair(content, found)
        dropped = {
            f.entry[1] for f in found if f.outcome == "repaired" and f.entry[0] == "annotations" and not f.changes
        }
        assert len(repaired["annotations"]) == len(content["annotations"]) - len(dropped)
        again = annotations.find_faults(repaired, str(file), masks=True)
        assert [fault for fault in again if fault.outcome != "noted"] == []
        trained = COCO()
        trained.dataset = json.loads(json.dumps(repaired))
        trained.createIndex()
        for annotation in trained.dataset["annotations"]:
            assert trained.annToMask(annotation).shape == (30, 40)

    check(cases, examine, ANNOTATIONS)


@CASES
def test_labelled_folders(cases, tmp_path, pictures):
    """Through ``--classes auto``: a layout, or an error that names the folder or the file."""
    for image in pictures.glob("*.png"):
        (tmp_path / "images" / image.name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / image.name).write_bytes(image.read_bytes())

    def find(case):
        changes, damage = case
        for old in tmp_path.glob("annotations/*.json"):
            old.unlink()
        data = json.dumps(changed(changes))
        text = data[: len(data) // 2] if damage == "cut" else damage + data
        (tmp_path / "all.json").write_text(text, errors="surrogatepass")
        found = result_or_named_error(lambda: find_layout(tmp_path, "detection"), UsageError)
        if not isinstance(found, Exception):
            assert len(set(found.classes)) == len(found.classes) > 0

    check(cases, find, ANNOTATIONS)


VOC = (
    "<annotation><filename>1.png</filename><size><width>40</width><height>30</height><depth>3</depth></size>"
    "<object><name>a</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
YOLO = "0 0.5 0.5 0.1 0.1\n1 0.2 0.2 0.1 0.1\n"
NAMES = "names: [a, b]\n"
TEXTS = st.tuples(
    st.sampled_from(["voc", "yolo", "names"]),
    st.floats(0, 1),
    st.sampled_from(["cut", "inserted", "replaced", "repeated"]),
    st.one_of(
        st.text(max_size=4), st.sampled_from(["nan", "-1", "1e999", "9" * 50, "<", "&a;", "\0", "[" * 3000, "\n", "7"])
    ),
)


@CASES
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_labels_of_other_formats(cases, tmp_path, pictures):
    """Pascal VOC and YOLO."""

    def damaged(text, place, how, piece):
        at = int(place * len(text))
        end = {"cut": "", "inserted": piece + text[at:], "replaced": piece + text[at + 1 :], "repeated": text}[how]
        return text[:at] + end

    def find(case):
        kind, *damage = case
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            images = Path(folder, "JPEGImages" if kind == "voc" else "images")
            labels = Path(folder, "Annotations" if kind == "voc" else "labels")
            shutil.copytree(pictures, images, ignore=shutil.ignore_patterns("*.json"))
            labels.mkdir()
            whole = VOC if kind == "voc" else YOLO
            for i in (1, 2, 3):
                text = damaged(whole, *damage) if i == 1 and kind != "names" else whole
                file = labels / f"{i}.{'xml' if kind == 'voc' else 'txt'}"
                file.write_text(text, errors="surrogatepass")
            if kind != "voc":
                text = damaged(NAMES, *damage) if kind == "names" else NAMES
                Path(folder, "data.yaml").write_text(text, errors="surrogatepass")
            found = result_or_named_error(lambda: find_layout(folder, "detection"), UsageError)
            if not isinstance(found, Exception):
                assert len(set(found.classes)) == len(found.classes) > 0

    check(cases, find, TEXTS)


# ------------------------------------------------------------------------------------------------------ --cfg-options
CONFIG = Config.fromfile(ROOT / "configs" / "revcol_maskrcnn_sample.py")
KEYS = [".".join(map(str, place)) for place in places(CONFIG.to_dict()) if place]


@st.composite
def options(draw):
    key = draw(st.sampled_from(KEYS))
    parts = key.split(".")
    change = draw(st.sampled_from(["", "", "", "typo", "longer", "shorter", "index", "plus", "delete", "odd"]))
    if change == "typo":
        parts[draw(st.integers(0, len(parts) - 1))] += "x"
    elif change == "longer":
        parts.append(draw(st.sampled_from(["a", "0", "type", "_delete_"])))
    elif change == "shorter":
        parts = parts[:-1] or parts
    elif change == "index":
        parts = [str(draw(st.integers(-2, 99))) if part.isdigit() else part for part in parts]
    elif change == "plus":
        parts[0] = "+" + parts[0]
    elif change == "delete":
        parts.append("_delete_")
    elif change == "odd":
        parts = draw(st.lists(st.text(max_size=3), min_size=1, max_size=3))
    return ".".join(parts)


ASSIGNED = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["3", "None", "true", "[1,2]", "(1,2", "[[1,2],(3)]", "a,b", ",", "()", "[", "'", "{'a': 1}", "=", "1e999"]
    ),
)


@CASES
def test_options(cases):
    """As typed: merged to the value that was given, or refused."""
    init_default_scope("mmdet")
    parser = argparse.ArgumentParser()
    _runs.add_config_arguments(parser)

    def merge(case):
        arguments = [f"{key}={value}" if value is not None else key for key, value in case]
        try:
            given = parser.parse_args(["c.py", "--cfg-options", *arguments])
        except SystemExit as stop:  # with a message of the parser
            assert stop.code == 2
            return
        cfg = copy.deepcopy(CONFIG)
        end = result_or_named_error(lambda: merge_options(cfg, given.cfg_options))
        if isinstance(end, Exception) or len(given.cfg_options) != 1:
            return
        ((key, value),) = given.cfg_options.items()
        if not key.endswith("_delete_") and not isinstance(value, dict):
            node = cfg
            for part in key.lstrip("+").split("."):
                node = node[int(part) if isinstance(node, (list, tuple)) else part]
            assert node == value or node is value or list(node) == list(value)

    check(
        cases, merge, st.lists(st.tuples(options(), st.one_of(st.none(), ASSIGNED, ASSIGNED)), min_size=1, max_size=2)
    )


@CASES
def test_values_of_options(cases):
    """Any value in any place of a config."""
    init_default_scope("mmdet")

    def merge(case):
        result_or_named_error(lambda: merge_options(copy.deepcopy(CONFIG), dict(case)))

    check(cases, merge, st.lists(st.tuples(options(), JUNK), min_size=1, max_size=2))
