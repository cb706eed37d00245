"""Labelled data for training and validation, and the split of images that have none."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backbones.datasets.files import write_whole
from backbones.usage import UsageError, note


@dataclass(frozen=True)
class Split:
    """How images without a split are divided.

    Attributes:
        val_share: Share of the images for validation, in (0, 1).
        seed: Of the random choice.

    Raises:
        UsageError: for another share.
    """

    val_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise UsageError(f"--val-share is {self.val_share}; it must lie between 0 and 1, for example 0.2")

    def validation(self, classes_of: Mapping[Any, Iterable[Any]]) -> set[Any]:
        """The images for validation, stratified: of each class as close to the share as whole images allow.

        Args:
            classes_of: Image -> the classes of its objects.
        """
        frequency = Counter(name for names in classes_of.values() for name in set(names))
        strata = defaultdict(list)  # images by their rarest class
        ordered = sorted(classes_of, key=lambda image: (type(image).__name__, image))  # ids may be text
        for image in ordered:
            names = sorted(set(classes_of[image]), key=lambda name: (frequency[name], str(name)))
            strata[names[0] if names else None].append(image)
        chosen: set[Any] = set()
        rng, owed = np.random.default_rng(self.seed), 0.0
        for rarest in sorted(strata, key=lambda name: (frequency[name], str(name))):
            images = strata[rarest]
            owed += self.val_share * len(images)  # fractions of an image are carried on
            count = min(int(owed + 1e-9), len(images))
            owed -= count
            chosen |= {images[i] for i in rng.permutation(len(images))[:count]}
        if not chosen and len(classes_of) > 1:
            chosen = {ordered[int(rng.integers(len(ordered)))]}
        return chosen


@dataclass(frozen=True)
class Labelled:
    """Data of one layout.

    Attributes:
        classes: In the order of their numbers.
        train: Settings of the host's data set (type, paths), without classes and pipeline.
        val: Likewise.
        has_masks: Whether most objects have masks; those without are dropped before a training on masks, and counted.
        evaluator: Settings of the host's metrics that read files, by the name of the setting.
        stuff: The classes without instances, of panoptic data.
    """

    classes: tuple[str, ...]
    train: dict[str, Any]
    val: dict[str, Any]
    has_masks: bool = True
    evaluator: dict[str, str] = field(default_factory=dict)
    stuff: tuple[str, ...] = ()


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        UsageError: for another kind of file.
    """
    try:
        return json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON ({error}); is the file complete?") from error


def write_beside(file: Path, text: str, contains: str) -> None:
    """Write a file next to the data; another process may write the same.

    Args:
        file: The file.
        text: Its content.
        contains: The content in words, for the log.

    Raises:
        UsageError: if the file has other content.
    """
    if file.exists():
        if file.read_text() != text:
            raise UsageError(f"{file} exists with other content and is left alone; remove it to make it again")
        return
    write_whole(file, text)
    note(f"wrote {file}: {contains}")
