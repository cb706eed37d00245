"""The images and videos to predict: finding and reading them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from backbones.usage import UsageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


@dataclass(frozen=True)
class Input:
    """An image or video file.

    Attributes:
        path: The file, as it was given.
        name: Its path below the common folder of all inputs, without suffix; names the outputs, no two are equal.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Frame:
    """An image that was read: a file, or a frame of a video.

    Attributes:
        source: Its file.
        image: Its pixels, height x width x BGR.
        index: Number of the frame in its video, from 0, or None for an image file.
        fps: Frames a second of the video.
    """

    source: Input
    image: np.ndarray
    index: int | None = None
    fps: float = 0


@dataclass
class Inputs:
    """Everything that was asked for.

    Attributes:
        files: The images and videos.
        skipped: Path or pattern -> reason; grows while the files are read.
    """

    files: list[Input]
    skipped: dict[str, str] = field(default_factory=dict)

    def count(self) -> int:
        """Number of images and of frames of videos, as their headers state it."""
        return sum(_frame_count(file.path) if file.is_video else 1 for file in self.files)

    def frames(self, read_image: Callable[[Path], np.ndarray]) -> Iterator[Frame]:
        """Read the files one after the other; unreadable ones are added to ``skipped``.

        Args:
            read_image: Reads an image file; may raise any exception.
        """
        for file in self.files:
            if file.is_video:
                yield from self._video(file)
                continue
            try:
                image = read_image(file.path)
            except Exception as error:  # decoders raise anything
                self.skipped[str(file.path)] = f"not a readable image ({error or type(error).__name__})"
            else:
                yield Frame(file, image)

    def _video(self, file: Input) -> Iterator[Frame]:
        video = cv2.VideoCapture(str(file.path))
        try:
            expected, fps, read = _frame_count(file.path), video.get(cv2.CAP_PROP_FPS) or 25.0, 0
            while (frame := video.read())[0]:
                yield Frame(file, frame[1], read, fps)
                read += 1
        finally:
            video.release()
        if not read:
            self.skipped[str(file.path)] = "not a readable video"
        elif read < expected:
            self.skipped[f"{file.path}, from frame {read} on"] = f"its header states {expected} frames"


def _frame_count(path: Path) -> int:
    video = cv2.VideoCapture(str(path))
    try:
        return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        video.release()


def find_inputs(patterns: Sequence[str]) -> Inputs:
    """Find the images and videos of files, folders (with their subfolders) and glob patterns.

    A file that is named itself counts as an image whatever its suffix; in folders, files of other kinds are left out.

    Raises:
        UsageError: if nothing is found.
    """
    found, skipped = {}, {}  # a file that is named twice is predicted once
    for pattern in patterns:
        paths = [Path(pattern)] if os.path.exists(pattern) else sorted(map(Path, glob.glob(pattern, recursive=True)))
        files = [file for path in paths for file in (_inside(path) if path.is_dir() else [path])]
        if not files:
            skipped[pattern] = "holds no images or videos" if paths else "there is no such file"
        for file in files:
            found.setdefault(file.resolve(), file)
    if not found:
        reasons = "; ".join(f"{pattern}: {reason}" for pattern, reason in skipped.items())
        raise UsageError(
            f"there is no image or video ({reasons}); give images, videos, folders or patterns. "
            f"Folders are searched for {' '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
        )
    return Inputs([Input(path, name) for path, name in zip(found.values(), _names(list(found)), strict=True)], skipped)


def _inside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES)


def _names(paths: list[Path]) -> list[str]:
    """Path of each file below the common folder, without suffix where that is unique: ``cat`` or ``cat_jpg``."""
    folder = os.path.commonpath([path.parent for path in paths])
    relative = [path.relative_to(folder) for path in paths]
    stems = Counter(path.with_suffix("") for path in relative)
    return [
        str(path.with_suffix("") if stems[path.with_suffix("")] == 1 else path.with_name(path.name.replace(".", "_")))
        for path in relative
    ]
