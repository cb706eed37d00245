"""Checks of a zip archive (``torch.save``, ``.npz``) before any of its content is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

LARGEST_RATIO = 100  # of unpacked to packed bytes; trained weights pack to no less than a half
HARMLESS = 2**30  # bytes that are unpacked whatever their ratio


def check_archive(path: Path) -> None:
    """Refuses an archive that would unpack to far more than the file (a "zip bomb"), and a TorchScript program.

    Args:
        path: Any file; one that is no archive passes.

    Raises:
        ValueError: with the reason.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    if program:  # torch.load would load it as one
        raise ValueError("it is a TorchScript program")
    packed = path.stat().st_size
    if unpacked > max(HARMLESS, LARGEST_RATIO * packed):
        raise ValueError(f"its {packed / 1e6:.3g} MB would unpack to {unpacked / 1e9:.3g} GB; no weights pack so well")
