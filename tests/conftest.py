"""Shared by all tests: a seed, one thread, and the official numbers where they lie beside the checkout."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DENSEBACKBONES_SHARED", ROOT.parent / "shared"))


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def fixtures() -> Path:
    """Folder with the outputs of the official implementations."""
    folder = SHARED / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"official outputs are not there: {folder}")
    return folder
