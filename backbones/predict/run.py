"""The loop over images and videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.structures import BaseDataElement
from tqdm import tqdm

from backbones.predict.inputs import Source, Video
from backbones.predict.predictor import Predictor
from backbones.predict.tiles import predict_tiled
from backbones.predict.writing import Writer

Image = tuple[str, np.ndarray]  # name and pixels


class Run:
    """Predicts on files one after the other and writes each result at once.

    Args:
        predictor: The model.
        writer: The writer of its task.
        batch_size: Images, frames or tiles at a time.
        tile: Side of the tiles in pixels and their overlap, for a detector on large images; None: whole images.
        ids: COCO's ids of images by file name; others are numbered.

    Attributes:
        images: Entries of COCO's image list.
        failed: A line for each file that could not be read.
    """

    def __init__(
        self,
        predictor: Predictor,
        writer: Writer,
        batch_size: int = 1,
        tile: tuple[int, float] | None = None,
        ids: Mapping[str, int] | None = None,
    ) -> None:
        self.predictor, self.writer, self.batch_size, self.tile = predictor, writer, batch_size, tile
        self.ids = dict(ids or {})
        self._free = count(max(self.ids.values(), default=0) + 1)
        self.images: list[dict[str, Any]] = []
        self.failed: list[str] = []

    def __call__(self, sources: Sequence[Source]) -> None:
        """Predict on all sources, then write the results."""
        stills = [source for source in sources if not source.is_video]
        for name, image, sample in self._predicted(self._read(stills), len(stills), "images"):
            self.writer.write_picture(name, self._kept(name, image, sample))
        for source in sources:
            if source.is_video:
                self._predict_video(source)
        self.writer.finish(self.images)

    def _read(self, sources: Iterable[Source]) -> Iterator[Image]:
        for source in sources:
            try:
                yield source.name, self.predictor.read(source.path)
            except OSError as error:
                self._skip(source, error)

    def _skip(self, source: Source, error: Exception) -> None:
        self.failed.append(f"{source.path}: {error}")
        tqdm.write(f"skipped {self.failed[-1]}")

    def _predicted(
        self, images: Iterator[Image], total: int, title: str
    ) -> Iterator[tuple[str, np.ndarray, BaseDataElement]]:
        with tqdm(total=total, desc=title, unit="image") as progress:
            while batch := list(islice(images, 1 if self.tile else self.batch_size)):
                for (name, image), sample in zip(batch, self._samples([image for _, image in batch]), strict=True):
                    yield name, image, sample
                progress.update(len(batch))

    def _samples(self, images: list[np.ndarray]) -> list[BaseDataElement]:
        if self.tile is None:
            return self.predictor(images)
        return [predict_tiled(self.predictor, image, *self.tile, self.batch_size) for image in images]

    def _kept(self, name: str, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
        """Keeps the prediction and returns its picture."""
        image_id = self.ids.get(Path(name).name) or next(self._free)
        height, width = image.shape[:2]
        self.images.append(dict(id=image_id, file_name=name, height=height, width=width))
        self.writer.add(sample, image_id, name)
        return self.writer.picture(image, sample)

    def _predict_video(self, source: Source) -> None:
        try:
            video = Video(source.path)
        except OSError as error:
            self._skip(source, error)
            return
        file = self.writer.folder / "videos" / Path(source.name).with_suffix(".mp4")
        file.parent.mkdir(parents=True, exist_ok=True)
        frames = ((f"{source.name}/{number:06d}", frame) for number, frame in enumerate(video))
        out = None
        for name, frame, sample in self._predicted(frames, video.count, source.name):
            picture = self._kept(name, frame, sample)
            size = (picture.shape[1], picture.shape[0])
            out = out or cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), video.rate, size)  # type: ignore[attr-defined]
            out.write(picture)
        if out is not None:
            out.release()
