"""The files of a run: pictures and videos, label maps, and the JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbones.predict.ids import Ids
from backbones.predict.inputs import Frame, Input
from backbones.predict.pictures import Pictures
from backbones.predict.tasks import Task, task_of
from backbones.predict.tasks.base import Record
from backbones.usage import UsageError


def check_folder(folder: Path) -> None:
    """Refuse a folder for output that is not empty, or a file.

    Raises:
        UsageError: naming it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is left alone; remove it or choose another folder: -o FOLDER")


class Output:
    """Writes the results of frames in the order in which they come; ``close`` writes the JSON files.

    Args:
        folder: The folder, empty or new.
        ids: Ids of images and classes.
        pictures: Draws the pictures.
    """

    def __init__(self, folder: Path, ids: Ids, pictures: Pictures) -> None:
        self.folder = folder
        self.records: list[Record] = []
        self.images: list[Record] = []
        self._ids = ids
        self._pictures = pictures
        self._task: Task | None = None
        self._video: tuple[Input, Any] | None = None

    def add(self, frame: Frame, sample: Any) -> None:
        """Write the picture and the label map of a frame, and keep its records."""
        self._task = self._task or task_of(sample)
        height, width = frame.image.shape[:2]
        known = self._ids.images.get(frame.source, {})
        image: Record = {
            "id": known.get("id", len(self.images) + 1),
            "file_name": known.get("file_name", str(frame.source.path)),
            **({} if frame.index is None else {"frame": frame.index}),
            "width": width,
            "height": height,
        }
        records = self._task.records(sample, self._ids.categories)
        labels = self._task.label_map(sample, len(self._ids.classes))
        if labels is not None:
            name = frame.source.name if frame.index is None else f"{frame.source.name}/{frame.index:06}"
            image["label_map"] = f"{name}.png"
            _write(self.folder / "label_maps" / image["label_map"], labels)
        self.images.append(image)
        self.records += [{"image_id": image["id"], **record} for record in records]
        picture = self._pictures.draw(frame, sample)
        file = self.folder / "pictures" / frame.source.name
        if frame.index is None:
            _write(file.with_name(f"{file.name}.jpg"), picture)
        else:
            self._add_to_video(file.with_name(f"{file.name}.mp4"), frame, picture)

    def _add_to_video(self, file: Path, frame: Frame, picture: np.ndarray) -> None:
        if self._video is None or self._video[0] != frame.source:
            self._end_video()
            file.parent.mkdir(parents=True, exist_ok=True)
            height, width = picture.shape[:2]
            writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), frame.fps, (width, height))
            if not writer.isOpened():
                raise UsageError(f"{file} cannot be written: this build of OpenCV has no MPEG-4 encoder")
            self._video = frame.source, writer
        self._video[1].write(picture)

    def _end_video(self) -> None:
        if self._video:
            self._video[1].release()
            self._video = None

    def close(self) -> None:
        """End the video and write the JSON files."""
        self._end_video()
        if self._task is None or not self.images:
            return
        for number, record in enumerate(self.records, 1):
            record["id"] = number
        categories = [{"id": i, "name": name} for i, name in zip(self._ids.categories, self._ids.classes, strict=True)]
        files = {
            "predictions.json": self.records,
            "images.json": {"images": self.images, "categories": categories, "annotations": []},
            **self._task.summary(self.records, self.images),
        }
        for name, content in files.items():
            (self.folder / name).write_text(json.dumps(content))


def _write(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file), image):
        raise UsageError(f"{file} cannot be written")
