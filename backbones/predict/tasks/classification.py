"""Classification: the classes with the highest scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backbones.predict.tasks.base import Record, Task

TOP = 5


class Classification(Task):
    """The best classes, the best first."""

    field = "pred_score"

    def records(self, sample: Any, categories: Sequence[int]) -> list[Record]:
        scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
        return [
            {"category_id": categories[label], "score": score}
            for score, label in zip(scores.tolist(), labels.tolist(), strict=True)
        ]
