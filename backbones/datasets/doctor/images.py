"""Faults of image files."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from backbones.checks import is_number
from backbones.datasets.doctor.faults import Fault

LARGEST = 10**9  # pixels of a side that may be meant
MAX_SIZES = 2000  # headers read before a training; one wrong size, and all are read
ORIENTATION = 0x0112  # EXIF
PLAIN_MODES = ("RGB", "L", "1")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Header:
    """Says how a file stores an image."""

    size: tuple[int, int]  # width, height, as stored
    mode: str  # Pillow's
    turned: bool  # by a quarter, when read
    oriented: bool  # turned or mirrored, when read
    error: str = ""  # why the file cannot be read; the other values are then empty
    digest: bytes = b""  # of the whole file

    @property
    def read_size(self) -> tuple[int, int]:
        """Width and height as mmcv reads the image."""
        return (self.size[1], self.size[0]) if self.turned else self.size


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item], text: str | None = None) -> Iterator[Result]:
    """Results in order, by one thread a core (decoders work outside Python's lock), with a progress bar if named."""
    items = list(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from tqdm(pool.map(function, items), text, len(items), unit="image", disable=text is None)


def read_header(path: str, decode: bool = False) -> Header:
    """Read an image's header, or with ``decode`` all of its bytes."""
    digest = data = b""
    try:
        if decode:
            with open(path, "rb") as file:
                data = file.read()
            digest = hashlib.blake2b(data, digest_size=16).digest()
        with Image.open(io.BytesIO(data) if decode else path) as image:
            size, mode, orientation = image.size, image.mode, image.getexif().get(ORIENTATION, 1)
            if decode:
                image.draft("RGB", (1, 1))  # a JPEG's coefficients are all read, but few of its pixels made
                image.load()
    except UnidentifiedImageError:
        with open(path, "rb") as file:
            return Header((0, 0), "", False, False, f"no image: begins with {file.read(20)!r}")
    except Exception as error:  # broken bytes may raise anything
        return Header((0, 0), "", False, False, f"{type(error).__name__}: {error}")
    return Header(size, mode, orientation in (5, 6, 7, 8), orientation in range(2, 9), digest=digest)


def missing(paths: Iterable[str]) -> list[str]:
    """The paths that do not exist, by one listing for each folder."""
    listings: dict[str, set[str]] = {}
    absent = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in listings[folder]:
            absent.append(path)
    return absent


def of_content(content: dict[str, Any], folder: str) -> list[str]:
    """The paths of the images of a COCO annotation file, in its order."""
    return [os.path.join(folder, image["file_name"]) for image in content["images"]]


def coco_faults(
    content: dict[str, Any], file: str, folder: str, headers: dict[str, Header] | None, unturned: bool = False
) -> list[Fault]:
    """Faults of the images of a COCO annotation file: existence, sizes, and what their headers tell.

    Args:
        content: The content of a readable annotation file.
        file: Its path.
        folder: Folder of the images.
        headers: Those of all images, decoded; None: existence, and the sizes of ``MAX_SIZES`` images.
        unturned: Whether the config reads images without turning them by their EXIF tags.

    Returns:
        The faults, those of wrong sizes with the true ones as changes.
    """
    images, paths = content["images"], of_content(content, folder)
    absent = set(missing(paths))
    faults = [
        Fault("missing-image", file, path, image["id"])
        for path, image in zip(paths, images, strict=True)
        if path in absent
    ]
    present = [index for index, path in enumerate(paths) if path not in absent]
    if headers is None:
        chosen = present
        if len(present) > MAX_SIZES:
            chosen = [present[i] for i in np.linspace(0, len(present) - 1, MAX_SIZES, dtype=int)]
        found = list(_size_faults(content, file, paths, chosen, {}, unturned))
        if found and len(chosen) < len(present):
            found = list(_size_faults(content, file, paths, present, {}, unturned))
        return faults + found
    return faults + list(_size_faults(content, file, paths, present, headers, unturned))


def _size_faults(
    content: dict, file: str, paths: list[str], chosen: list[int], headers: dict[str, Header], unturned: bool
) -> Iterator[Fault]:
    read = in_parallel(lambda index: headers.get(paths[index]) or read_header(paths[index]), chosen)
    for index, header in zip(chosen, read, strict=True):
        image, path = content["images"][index], paths[index]
        if header.error:
            if path not in headers:
                yield Fault("broken-image", file, f"{path}: {header.error}", image["id"])
            continue
        said = (image.get("width"), image.get("height"))
        size = header.size if unturned else header.read_size
        if said == size:
            continue
        text = f"{path} is {size[0]} x {size[1]}, the annotation file says {said[0]} x {said[1]}"
        kind = "image-size"
        if all(is_number(value) and 0 < value < LARGEST for value in said):
            if said == header.size:
                kind = "image-rotation"
            elif abs(said[0] * size[1] / (said[1] * size[0]) - 1) < 0.01:
                kind = "image-scale"
        changes = {"width": size[0], "height": size[1]}
        yield Fault(kind, file, text, image["id"], ("images", index), changes)


def header_faults(headers: dict[str, Header]) -> list[Fault]:
    """Faults that decoded images show of themselves: broken files, unusual modes, EXIF tags that turn them."""
    faults = []
    for path, header in headers.items():
        if header.error:
            faults.append(Fault("broken-image", os.path.dirname(path), f"{os.path.basename(path)}: {header.error}"))
            continue
        if header.mode not in PLAIN_MODES:
            faults.append(Fault("image-mode", os.path.dirname(path), f"{os.path.basename(path)}: {header.mode}"))
        if header.oriented:
            faults.append(Fault("turned-image", os.path.dirname(path), os.path.basename(path)))
    return faults


def duplicates(train: dict[str, Header], others: dict[str, Header]) -> list[Fault]:
    """Images of which the training set and another one hold the same bytes."""
    known = {header.digest: path for path, header in train.items() if header.digest}
    return [
        Fault("train-val-duplicate", os.path.dirname(path), f"{path} is {known[header.digest]}")
        for path, header in others.items()
        if header.digest in known
    ]
