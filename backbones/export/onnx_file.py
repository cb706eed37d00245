"""ONNX files, run by onnxruntime."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.export.program import FREE, Runner

SUFFIX = ".onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def save(program: Any, file: Path, names: list[str], metadata: Mapping[str, Any]) -> None:
    """Write a program; weights beyond 2 GB go to a file beside it, FILE.data.

    Args:
        program: From ``trace``.
        file: To write.
        names: Of the outputs.
        metadata: Kept in the file, each value as JSON.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        onnx: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=names,
            dynamic_shapes=(FREE,),
        )
    onnx.model.metadata_props.update({key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(file)


def load(file: Path) -> Runner:
    """Images to outputs, by onnxruntime on the CPU with as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {"images": images.numpy()})]

    return run
