"""The images that a user names: files, folders, patterns, and the frames of videos."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from backbones.usage import UsageError

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}


@dataclass(frozen=True)
class Source:
    """A file to predict on.

    Attributes:
        path: The file.
        name: Its path below the folder that was named, which the results keep.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video by its suffix."""
        return self.path.suffix.lower() in VIDEOS


def find(names: Sequence[str]) -> list[Source]:
    """The files that paths, folders and patterns name, each once.

    Raises:
        UsageError: for a name without any image or video.
    """
    found: dict[Path, Source] = {}
    for name in names:
        sources = list(_sources(name))
        if not sources:
            allowed = ", ".join(sorted(IMAGES | VIDEOS))
            raise UsageError(f"{name} names no image or video; give files, folders or patterns of {allowed}")
        for source in sources:
            found.setdefault(source.path.resolve(), source)
    kept = list(found.values())
    if len({source.name for source in kept}) < len(kept):  # two folders with files of one name
        kept = [Source(source.path, str(source.path).lstrip("/")) for source in kept]
    return kept


def _sources(name: str) -> Iterator[Source]:
    path = Path(name).expanduser()
    if path.is_file():
        yield Source(path, path.name)
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in IMAGES | VIDEOS:
                yield Source(file, str(file.relative_to(path)))
    else:
        for match in sorted(glob.glob(str(path), recursive=True)):
            if Path(match).suffix.lower() in IMAGES | VIDEOS:
                yield Source(Path(match), Path(match).name)


class Video:
    """The frames of a video, ``(H, W, 3)`` uint8 in BGR.

    Raises:
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path))
        self.count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        read, self._first = self._capture.read()
        if not read:
            raise OSError("it has no frame that can be decoded")

    def __iter__(self) -> Iterator[np.ndarray]:
        read, frame = True, self._first
        while read:
            yield frame
            read, frame = self._capture.read()
        self._capture.release()
