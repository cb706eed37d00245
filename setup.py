"""Builds the package; its metadata is in pyproject.toml."""

import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
FAMILIES = runpy.run_path(str(ROOT / "backbones" / "families.py"))  # the package itself imports mmengine
EXTRAS = {
    "data": ["supervision"],  # Pascal VOC and YOLO labels
    "predict": ["pycocotools", "sahi"],  # masks, --tile
    "demo": ["gradio"],  # predict --serve
    "hub": ["huggingface_hub"],  # hf:// addresses of weights
    "export": ["onnx", "onnxruntime", "onnxscript"],
}
DEV = [
    *(name for names in EXTRAS.values() for name in names),
    *("build", "hypothesis", "matplotlib", "playwright", "pyright", "pytest", "pytest-xdist", "ruff", "timm"),
    *("mkdocs<2", "mkdocs-material", "mkdocstrings-python"),
]


class BuildWithConfigs(build_py):
    """Adds the configs and their index as ``backbones/.mim``, the folder of OpenMMLab's packages that mim reads.

    A wheel gets copies, an editable installation links to the checkout.
    """

    def run(self) -> None:
        super().run()
        mim = (ROOT if self.editable_mode else Path(self.build_lib)) / "backbones" / ".mim"
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for source in (ROOT / "configs", ROOT / "model-index.yml"):
            if self.editable_mode:
                (mim / source.name).symlink_to(source)
            elif source.is_dir():
                shutil.copytree(source, mim / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                shutil.copy(source, mim)


setup(
    extras_require={
        **{family: list(pins) for family, pins in FAMILIES["REQUIREMENTS"].items()},
        **EXTRAS,
        "dev": DEV,
    },
    cmdclass={"build_py": BuildWithConfigs},
)
