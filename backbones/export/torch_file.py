"""Programs of ``torch.export``: PyTorch runs them without this package and the hosts."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backbones.export.program import Runner

SUFFIX = ".pt2"
PACKAGES = ()


def save(program: Any, file: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """Write a program; the metadata, with the names of the outputs, is its extra file ``metadata.json``."""
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps({**metadata, "outputs": names})})


def load(file: Path) -> Runner:
    """Images to outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's reader, to itself
        return torch.export.load(file).module()
