"""One module for each task: how the results of an image are written."""

from typing import Any

from backbones.predict.tasks.base import Task
from backbones.predict.tasks.classification import Classification
from backbones.predict.tasks.detection import Detection
from backbones.predict.tasks.panoptic import Panoptic
from backbones.predict.tasks.semantic import Semantic
from backbones.usage import UsageError

TASKS: tuple[type[Task], ...] = (Panoptic, Detection, Semantic, Classification)  # panoptic samples may hold instances


def task_of(sample: Any) -> Task:
    """The task of a data sample, by the field with its result.

    Raises:
        UsageError: for a model of another task.
    """
    for task in TASKS:
        if task.field in sample:
            return task()
    raise UsageError(
        f"the model returns {', '.join(sample.keys()) or 'nothing'}; predict writes the results of detectors, "
        "of panoptic and semantic segmentors, and of classifiers"
    )
