"""Package metadata. The versions of both OpenMMLab families stand here and nowhere else; tools/env.sh reads them."""

from setuptools import find_packages, setup

# The maintained fork (default) and the frozen original have the same import names: install one of them, never both.
ONEDL = [
    "onedl-mmcv==2.3.6",
    "onedl-mmengine==0.10.12",
    "onedl-mmdetection==3.5.1",
    "onedl-mmsegmentation==1.4.2",
    "onedl-mmpretrain==1.3.6",
]
OPENMMLAB = [
    "mmcv==2.1.0",
    "mmengine==0.10.7",
    "mmdet==3.3.0",
    "mmsegmentation==1.2.2",
    "mmpretrain==1.2.0",
    "ftfy",  # imported by mmsegmentation 1.2.2, missing from its requirements
    "regex",  # likewise
    "numpy<2",
    "setuptools<81",  # mmengine imports pkg_resources
]
DEV = ["matplotlib", "pyright", "pytest", "ruff", "timm"]

setup(
    name="densebackbones",
    version="0.1.0",
    description="Dense-prediction backbones for mmdet, mmseg and mmpretrain",
    packages=find_packages(include=["backbones", "backbones.*"]),
    python_requires=">=3.10",
    install_requires=["einops", "numpy", "packaging", "safetensors", "torch"],
    extras_require={"onedl": ONEDL, "openmmlab": OPENMMLAB, "dev": DEV},
)
