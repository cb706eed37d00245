"""tools/env.sh on machines where something is missing: real runs in a small copy of the checkout."""

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FAMILIES = runpy.run_path(str(ROOT / "backbones" / "families.py"))
FAMILY = next(iter(FAMILIES["installed_families"]()))
MMCV = {"onedl": "onedl_mmcv-2.3.6", "openmmlab": "mmcv-2.1.0"}[FAMILY]
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
WHEEL = f"{MMCV}-{TAG}-{TAG}-linux_x86_64.whl"


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    for name in (
        *("setup.py", "pyproject.toml", "README.md", "tools/env.sh", "tools/env_check.py"),
        "backbones/families.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "configs").mkdir()
    (root / "backbones" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    return root


def env_sh(checkout, status, **variables):
    """Runs the script with nothing of this machine's settings; returns its output if the exit status is this."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(checkout),
        "PYTHON": sys.executable,
        "FAMILY": FAMILY,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        **{name: str(value) for name, value in variables.items()},
    }
    run = subprocess.run(["bash", "tools/env.sh"], cwd=checkout, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture
def site(checkout):
    """The package folder of a new, empty .venv in the checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    return checkout / ".venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"


def add_dist(site, name, version):
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def broken_wheel(path):
    """Writes a wheel of mmcv whose operators do not load, as one does that was built for another torch."""
    info = f"{MMCV}.dist-info"
    files = {
        "mmcv/__init__.py": "",
        "mmcv/ops.py": "raise ImportError('undefined symbol: _ZN3c10')",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: {}\nVersion: {}\n".format(*MMCV.split("-")),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {TAG}-{TAG}-linux_x86_64\n",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return path


def test_unknown_family(checkout):
    assert "FAMILY is 'mmlab'; it must be onedl or openmmlab" in env_sh(checkout, 2, FAMILY="mmlab")


def test_unsuitable_python(checkout):
    output = env_sh(checkout, 1, PYTHON="/bin/false")
    assert "no Python from 3.10" in output and "tried /bin/false" in output and "apt-get install python3" in output


def test_missing_compiler(checkout, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "cut", "dirname", "flock", "grep", "sed", "sha256sum", "awk", "df"):
        (tools / name).symlink_to(shutil.which(name))
    output = env_sh(checkout, 1, PATH=tools)
    assert "no C++ compiler (c++)" in output and "apt-get install build-essential" in output
    assert not (checkout / ".venv").exists()  # said before anything was made or downloaded


def test_missing_python_headers(checkout, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sysconfig; sysconfig.get_config_vars()['installed_base'] = '/no'"
    )
    output = env_sh(checkout, 1, PYTHONPATH=tmp_path)
    assert "no Python headers (/no/include/python3" in output and "apt-get install python3-dev" in output


def test_full_disk(checkout):
    output = env_sh(checkout, 1, MIN_DISK_GB=1_000_000)
    assert "not enough disk space: 1000000 GB are needed" in output and f"free in {checkout}" in output


def test_other_family_and_both_in_venv(checkout, site):
    add_dist(site, "mmcv", "2.1.0")
    output = env_sh(checkout, 1, FAMILY="onedl")
    assert "family onedl is wanted, but" in output and "holds packages of openmmlab: mmcv 2.1.0" in output
    add_dist(site, "onedl_mmengine", "0.10.12")
    output = env_sh(checkout, 1, FAMILY="onedl")
    assert "(openmmlab: mmcv 2.1.0; onedl: onedl-mmengine 0.10.12)" in output and "rm -rf" in output


def test_broken_venv(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to("/no/python3")
    assert "is no working environment" in env_sh(checkout, 1)


def test_torch_beside_the_interpreter_and_no_network(checkout, tmp_path):
    (tmp_path / WHEEL).touch()  # so that no compiler is asked for
    setup = checkout / "setup.py"
    setup.write_text(setup.read_text().replace('DEV = ["', 'DEV = ["densebackbones-not-there", "'))
    index = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": 0}
    output = env_sh(checkout, 1, MMCV_WHEEL_DIR=tmp_path, MIN_DISK_GB=1, **index)
    assert f"using the torch in {Path(torch.__file__).parent.parent}" in output
    find = "import importlib.util; print(importlib.util.find_spec('torch').origin)"
    assert subprocess.check_output([checkout / ".venv/bin/python", "-c", find], text=True).strip() == torch.__file__
    assert "the Python package index cannot be reached" in output and "pip config list" in output


@pytest.mark.long
def test_wheels_that_do_not_fit_then_repair(checkout, site, tmp_path):
    """Everything is borrowed from the environment that runs this test, but mmcv is a broken one at first."""
    (site / "lender.pth").write_text(sysconfig.get_path("purelib"))
    prebuilt = broken_wheel(tmp_path / "prebuilt" / WHEEL)
    zipfile.ZipFile(prebuilt).extractall(site)
    python = checkout / ".venv" / "bin" / "python"
    key = subprocess.check_output([python, checkout / "tools" / "env_check.py", "wheel-key"], text=True).strip()
    cached = broken_wheel(tmp_path / "cache" / "densebackbones" / f"{MMCV.replace('_', '-')}-{key}" / WHEEL)
    settings = {"MIN_DISK_GB": 1, "XDG_CACHE_HOME": tmp_path / "cache", "MMCV_WHEEL_DIR": tmp_path / "prebuilt"}

    output = env_sh(checkout, 1, CXX="no-such-compiler", **settings)
    assert f"{prebuilt}\nenv: it does not fit and is left alone: undefined symbol" in output
    assert f"{cached}, which was built earlier\nenv: it is broken, so it is thrown out and built again" in output
    assert "no C++ compiler (no-such-compiler)" in output
    assert prebuilt.exists() and not cached.exists()

    subprocess.run(
        [python, "-m", "pip", "uninstall", "-qy", MMCV.split("-")[0]], check=True
    )  # now the lender's is seen
    assert f"is ready ({FAMILY}), after" in env_sh(checkout, 0, **settings)
    assert env_sh(checkout, 0, **settings) == f"env: {checkout}/.venv is ready ({FAMILY})\n"
