"""Downloading a checkpoint once, held against the checksum that its authors publish."""

from __future__ import annotations

import hashlib
import os
import re
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, master_only

from ..errors import CheckpointError

# PyTorch's and timm's rule: the name ends in the first digits of the SHA-256. Digits alone may be a date.
_SHA256 = re.compile(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$")
_MD5 = {  # first digits; github.com/facebookresearch/mae, README.md and FINETUNE.md
    "mae_pretrain_vit_base.pth": "8cad7c",
    "mae_pretrain_vit_large.pth": "b8b06e",
    "mae_pretrain_vit_huge.pth": "9bdbb0",
    "mae_finetuned_vit_base.pth": "1b25e9",
    "mae_finetuned_vit_large.pth": "51f550",
    "mae_finetuned_vit_huge.pth": "2541f2",
}


def download(url: str) -> Path:
    """The file of a URL in torch hub's cache folder; downloaded by the first process if it is not there.

    Raises:
        CheckpointError: if it cannot be downloaded, or differs from its checksum. No file is left then.
    """
    name = Path(urlparse(url).path).name
    if not name:
        raise CheckpointError(f"{url} names no file")
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    _download(url, path)
    barrier()
    return path


@master_only
def _download(url: str, path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        torch.hub.download_url_to_file(url, str(partial), progress=True)
        check_sum(partial, path.name)
        partial.replace(path)
    except (OSError, HTTPException, ValueError) as error:
        raise CheckpointError(
            f"{url} cannot be downloaded ({error}). Check the address and the network, or give the path of a file"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def check_sum(file: Path, name: str) -> None:
    """Compares a file with the checksum published for its name, if there is one.

    Raises:
        ValueError: naming both.
    """
    kind, expected = ("sha256", match[1]) if (match := _SHA256.search(name)) else ("md5", _MD5.get(name, ""))
    if not expected:
        return
    digest = hashlib.new(kind)
    with file.open("rb") as content:
        while part := content.read(2**20):
            digest.update(part)
    got = digest.hexdigest()[: len(expected)]
    if got != expected:
        raise ValueError(f"its {kind} begins with {got}, that of the authors' file with {expected}")
