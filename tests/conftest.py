"""Shared by all tests: a seed, one thread, and the official numbers where they lie beside the checkout."""

import json
import logging
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.logging import MMLogger
from tool_runs import ROOT, command

from backbones import cli

COUNTING = {"test_info", "test_look", "test_papers", "test_revcol_vit"}
SHARED = Path(os.environ.get("DENSEBACKBONES_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]):
    """Modules with slow tests first: with one module a worker, none of them is left to the end.

    Those that count memory come last: counting starts threads of autograd, which forked processes lack.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.stem in COUNTING, item.path not in slow))


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # its threads do not live on in a forked process


@pytest.fixture
def fixtures() -> Path:
    """Folder with the outputs of the official implementations."""
    folder = SHARED / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"official outputs are not there: {folder}")
    return folder


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "sample"
    subprocess.run(command("make_sample_coco", folder, "--train", 24, "--val", 4), check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of COCO where they lie beside the checkout, drawn shapes under COCO's names otherwise."""
    photographs = SHARED / "data" / "coco_tiny"
    if photographs.is_dir():
        return photographs
    from mmdet.datasets import CocoDataset

    folder = tmp_path_factory.mktemp("data") / "coco"
    shutil.copytree(request.getfixturevalue("sample"), folder)
    for file in (folder / "annotations").iterdir():
        annotations = json.loads(file.read_text())
        annotations["categories"] = [dict(id=i, name=name) for i, name in enumerate(CocoDataset.METAINFO["classes"], 1)]
        file.write_text(json.dumps(annotations))
    return folder


@pytest.fixture
def fail(capsys):
    """Runs a verb that must end with status 2, and gives its error message."""

    def fail_(verb: str, *arguments) -> str:
        assert cli.run(verb, list(map(str, arguments))) == 2
        message = capsys.readouterr().err
        assert message.count("error: ") == 1
        return message.partition("error: ")[2]

    return fail_


@pytest.fixture
def said():
    """The log lines."""
    records, handler = [], logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
