"""A page on which an image is dropped and its prediction shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from backbones.predict.ids import Ids
from backbones.predict.inputs import Frame, Input
from backbones.predict.pictures import Pictures
from backbones.predict.tasks import task_of
from backbones.usage import UsageError

Predict = Callable[[list[Frame]], Any]


def make_page(predictor: Predict, ids: Ids, pictures: Pictures, title: str) -> Any:
    """The page, a gradio interface; ``launch`` serves it.

    Raises:
        UsageError: if gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise UsageError("--serve needs gradio; install it: pip install 'densebackbones[demo]'") from error

    def answer(image: np.ndarray | None) -> tuple[np.ndarray | None, list[dict[str, Any]]]:
        if image is None:  # it was removed from the page
            return None, []
        frame = Frame(Input(Path("image"), "image"), np.ascontiguousarray(image[..., ::-1]))
        ((_, sample),) = predictor([frame])
        records = task_of(sample).records(sample, range(len(ids.classes)))
        listed = [
            {"class": ids.classes[r["category_id"]], **{k: r[k] for k in ("score", "bbox") if k in r}} for r in records
        ]
        return pictures.draw(frame, sample)[..., ::-1], listed

    return gradio.Interface(
        answer,
        inputs=gradio.Image(type="numpy", image_mode="RGB", label="image"),
        outputs=[gradio.Image(type="numpy", label="prediction"), gradio.JSON(label="results")],
        title=title,
        live=True,
        flagging_mode="never",
        analytics_enabled=False,
    )
