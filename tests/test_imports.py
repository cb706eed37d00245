"""Rules of import between the parts of the package, and the cost of importing it.

- ``layers`` and ``reversible`` import torch, einops and layers.
- ``families``, ``usage`` and ``errors`` import the standard library.
- The backbones (``base``, ``trunk``, ``pyramid``, the family files), ``checkpoints``, ``engine`` and ``registry``
  import no host and nothing of the rooms below.
- ``classification`` may import mmpretrain and ``segmentation`` mmseg and mmcv, but none of the rooms below.
- ``config``, ``datasets``, ``export``, ``info``, ``look``, ``papers``, ``pictures``, ``predict``, ``benchmark`` and
  ``zoo`` may import hosts and each other, but not ``cli``.
- Only ``cli`` may import everything.

So a missing host never breaks ``import backbones``.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tool_runs import ROOT, environment

PACKAGE = ROOT / "backbones"
ROOMS = {"cli", "config", "datasets", "export", "info", "look", "papers", "pictures", "predict", "benchmark", "zoo"}
HOSTS = {"mmdet", "mmseg", "mmpretrain", "mmcv"}
OF_HEADS = {"classification": {"mmpretrain"}, "segmentation": {"mmseg", "mmcv"}}
FREE = {"families", "usage", "errors"}  # of everything but the standard library
LAYERS = {"layers", "reversible"}
CORE = {"torch", "einops", "layers"}
FILES = sorted(file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if ".mim" not in file.parts)


def part(file: Path) -> str:
    """``layers`` for layers/linear.py, ``vit`` for vit.py."""
    return file.parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """Top-level packages and parts of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(["backbones", *file.parts[: -node.level]]) if node.level else ""
            module = ".".join(filter(None, (module, node.module)))
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "backbones" else [module]
        for name in names:
            top, _, inside = name.partition(".")
            found.add(inside.partition(".")[0] if top == "backbones" and inside else top)
    return found - sys.stdlib_module_names


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_follow_the_rules(file):
    own, found = part(file), imports(file)
    allowed_rooms = {own} if own not in ROOMS else ROOMS - {"cli"} | {own}
    if own == "__init__":
        allowed_rooms = {"config"}  # config_path, of the standard library only
    assert found & ROOMS <= allowed_rooms
    if own in FREE:
        assert found == set()
    elif own in LAYERS:
        assert found <= CORE
    elif own not in ROOMS:
        assert found & HOSTS <= OF_HEADS.get(own, set())


def test_import_loads_no_host_and_nothing_that_draws():
    code = "import sys, backbones; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=300
    )
    assert loaded.returncode == 0, loaded.stderr
    # mmengine itself imports cv2, torch.hub tqdm
    assert not set(loaded.stdout.split()) & {*HOSTS, "matplotlib", "timm", "pycocotools", "PIL"}
