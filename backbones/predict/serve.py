"""A page on which an image is dropped and its prediction seen (gradio)."""

from __future__ import annotations

from typing import Any

import numpy as np

from backbones.predict.predictor import Predictor
from backbones.predict.writing import Writer
from backbones.usage import UsageError


def page(predictor: Predictor, writer: Writer) -> Any:
    """The gradio page, not started.

    Raises:
        UsageError: if gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise UsageError("--serve needs gradio: pip install 'densebackbones[demo]'") from error

    def predict(image: np.ndarray | None) -> np.ndarray | None:
        if image is None:
            return None
        bgr = np.ascontiguousarray(image[..., ::-1])
        (sample,) = predictor([bgr])
        return writer.picture(bgr, sample)[..., ::-1]

    return gradio.Interface(
        predict,
        gradio.Image(label="image", type="numpy", image_mode="RGB"),
        gradio.Image(label="prediction", format="jpeg"),
        title=f"{len(writer.classes)} classes",
        description=", ".join(writer.classes[:20]) + (", ..." if len(writer.classes) > 20 else ""),
        flagging_mode="never",
    )


def serve(predictor: Predictor, writer: Writer, port: int) -> None:
    """Open the page on this machine until it is interrupted.

    Raises:
        UsageError: for a port that is taken.
    """
    try:
        page(predictor, writer).launch(server_port=port, quiet=False)
    except OSError as error:
        raise UsageError(f"--port {port} cannot be opened ({error}); choose another one") from error
