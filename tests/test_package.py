"""The built wheel in an environment of its own, without a checkout: the command, the configs and the index for mim."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tool_runs import ROOT, SITES

pytestmark = pytest.mark.slow

SOURCES = ("backbones", "configs", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md")
OPTIONAL = ("LICENSE", "CHANGELOG.md", "CITATION.cff", "model-index.yml")


def call(*arguments, cwd: Path) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("PIP_")}
    result = subprocess.run(
        [*map(str, arguments)],
        cwd=cwd,
        env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel of the source distribution; other packages are lent to it."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in [*SOURCES, *(name for name in OPTIONAL if (ROOT / name).exists())]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    shutil.rmtree(source / "backbones" / ".mim", ignore_errors=True)
    build = "from setuptools import build_meta; print(build_meta.build_sdist('../dist'))"
    archive = call(sys.executable, "-c", build, cwd=source).splitlines()[-1]
    shutil.unpack_archive(folder / "dist" / archive, folder)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('../dist'))"
    wheel = call(sys.executable, "-c", build, cwd=folder / archive.removesuffix(".tar.gz")).splitlines()[-1]

    call(sys.executable, "-m", "venv", "--without-pip", "env", cwd=folder)
    site = folder / "env" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (site / "lender.pth").write_text("\n".join(map(str, SITES)))
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", folder / "dist" / wheel)
    call(folder / "env" / "bin" / "python", *pip, cwd=folder)
    return folder / "env" / "bin"


def test_metadata_version_and_verbs(installed, tmp_path):
    code = (
        "from importlib.metadata import metadata, requires; import backbones, pathlib; m = metadata('densebackbones');"
        "print(m['License-Expression'], m['Author'], m['Version'] == backbones.__version__);"
        "print(backbones.__file__); print(*sorted({r.partition('extra == ')[2] for r in requires('densebackbones')}));"
        "print((pathlib.Path(backbones.__file__).parent / 'py.typed').is_file())"
    )
    first, file, extras, typed = call(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert first == "Apache-2.0 DenseBackbones contributors True"
    assert installed.parent in Path(file).parents
    assert extras.replace('"', "").split() == ["data", "demo", "dev", "export", "hub", "onedl", "openmmlab", "predict"]
    assert typed == "True"
    listed = call(installed / "densebackbones", "--help", cwd=tmp_path)
    for verb in ("train", "test", "drop-in", "export-weights", "plot", "sample-data", "benchmark", "zoo"):
        assert f"\n  {verb} " in listed


def test_configs_are_where_mim_looks_and_serve_as_bases(installed, tmp_path):
    (tmp_path / "mine.py").write_text(
        '_base_ = __import__("backbones").config_path("revcol_maskrcnn_coco.py")\n'
        'model = dict(backbone=dict(arch="small"))\n'
    )
    code = (
        "from mmengine.config import Config; from mmengine.utils import get_installed_path; import pathlib;"
        "cfg = Config.fromfile('mine.py'); cfg.dump('dumped.py');"
        "assert Config.fromfile('dumped.py').to_dict() == cfg.to_dict();"
        "print(cfg.model.backbone.type, cfg.model.backbone.arch);"
        "print(*(f.name for f in pathlib.Path(get_installed_path('densebackbones'), '.mim', 'configs').glob('*.py')))"
    )
    backbone, configs = call(installed / "python", "-W", "ignore", "-c", code, cwd=tmp_path).splitlines()[-2:]
    assert backbone == "RevCol small"
    assert set(configs.split()) == {file.name for file in (ROOT / "configs").glob("*.py")}


def test_command_drops_in_makes_data_and_trains_from_an_empty_folder(installed, tmp_path):
    command = installed / "densebackbones"
    stock = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    rows = call(command, "zoo", "list", "revcol*coco", cwd=tmp_path).splitlines()
    assert [row.split()[0] for row in rows if "revcol_maskrcnn_coco" in row] == ["revcol_maskrcnn_coco"]
    printed = call(command, "drop-in", stock, "--backbone", "RevCol", "--arch", "tiny", "-o", "x.py", cwd=tmp_path)
    assert printed.endswith("wrote x.py; to train it: densebackbones train x.py\n")
    call(
        command, "drop-in", "densebackbones::revcol_maskrcnn_coco.py", "--backbone", "CeiT", "-o", "y.py", cwd=tmp_path
    )
    assert '_base_ = __import__("backbones").config_path("revcol_maskrcnn_coco.py")' in (tmp_path / "y.py").read_text()

    call(command, "sample-data", "sample", "--train", 4, "--val", 2, "--size", 64, cwd=tmp_path)
    options = ("train_dataloader.batch_size=2", "train_cfg.max_epochs=1", "train_cfg.val_interval=1")
    config = "densebackbones::revcol_maskrcnn_sample.py"
    trained = call(
        *(
            command,
            "train",
            config,
            "--data-root",
            "sample",
            "--cfg-options",
            *options,
            "default_hooks.logger.interval=1",
        ),
        cwd=tmp_path,
    )
    assert "Epoch(train) [1][2/2]" in trained
    assert "Skipping OneDL" not in trained
    assert (tmp_path / "work_dirs" / "revcol_maskrcnn_sample" / "last_checkpoint").is_file()
