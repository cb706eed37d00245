"""The hosts' stock configs, and made-up batches for their models."""

import difflib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _usage import UsageError

HOSTS = ("mmdet", "mmseg", "mmpretrain")


def config_folder(host: str) -> Path:
    """Where an installed host keeps its stock configs."""
    spec = importlib.util.find_spec(host)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{host} is not installed, and its stock configs are in its package; README, Install")
    return Path(spec.submodule_search_locations[0], ".mim", "configs")


def find_config(name: str) -> Path:
    """The file of ``host::folder/file.py``, or of a path.

    Raises:
        UsageError: for a host or a file that is not there, with the nearest names.
    """
    host, _, inside = name.rpartition("::")
    if host and host not in HOSTS:
        raise UsageError(f"{name} names the host {host!r}; it must be one of {', '.join(HOSTS)}, or give a path")
    path = config_folder(host) / inside if host else Path(name)
    if path.is_file():
        return path
    if not host:
        raise UsageError(f"there is no config {name}; stock configs are named like mmdet::retinanet/FILE.py")
    stock = {file.name: f"{host}::{file.parent.name}/{file.name}" for file in config_folder(host).glob("[!_]*/*.py")}
    names = [stock[file] for file in difflib.get_close_matches(path.name, stock, n=3, cutoff=0.5)]
    raise UsageError(f"{host} has no config {inside}; " + (f"near it: {', '.join(names)}" if names else "see its docs"))


def base_expression(name: str, folder: Path) -> str:
    """What to write behind ``_base_ =`` in a config in ``folder``.

    The fork's mmengine does not resolve ``mmseg::`` (its table of packages has upstream's name only), so such a file is
    named by the place of the package; mmengine evaluates the expression.
    """
    host, _, inside = name.rpartition("::")
    if host == "mmseg":
        return f'__import__("mmseg").__path__[0] + "/.mim/configs/{inside}"'
    if host:
        return f'"{name}"'
    return f'"{Path(os.path.relpath(name, folder)).as_posix()}"'


def random_batch(host: str, size: int, masks: bool, images: int) -> dict[str, Any]:
    """A batch of noise with labels of everything that a model of the host may train on.

    Args:
        host: ``mmdet``, ``mmseg`` or ``mmpretrain``.
        size: Height and width in pixels.
        masks: Whether mmdet's objects have masks, which some of its models do not take.
        images: Number of images.
    """
    if host == "mmdet":
        from mmdet.testing import demo_mm_inputs

        batch = demo_mm_inputs(images, (3, size, size), [2] * images, 8, with_mask=masks, with_semantic=True)
        for sample in batch["data_samples"]:
            sample.set_metainfo(dict(scale_factor=(1.0, 1.0), batch_input_shape=(size, size), pad_shape=(size, size)))
        return batch
    rng = np.random.default_rng(0)
    inputs = [torch.from_numpy(rng.integers(0, 256, (3, size, size), dtype=np.uint8)) for _ in range(images)]
    if host == "mmseg":
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = [
            SegDataSample(
                metainfo=dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size), flip=False),
                gt_sem_seg=PixelData(data=torch.from_numpy(rng.integers(0, 2, (1, size, size)))),
            )
            for _ in range(images)
        ]
    else:
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(i) for i in range(images)]
    return dict(inputs=inputs, data_samples=samples)
