"""Eager and compiled inference beside onnxruntime, which runs an export of the same network on the CPU."""

import statistics
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from backbones.base import DenseBackbone
from backbones.benchmark.measure import Net, images, inference, paired_seconds, ratio, table
from backbones.engine import compile_inference
from backbones.export import onnx_file
from backbones.export.outputs import Network
from backbones.export.program import trace


def beside_onnxruntime(name: str, net: DenseBackbone, x: Tensor, repeats: int) -> list[str]:
    """Lines of a subsection: seconds of an inference, all ways in turn.

    Args:
        name: Of the model.
        net: In evaluation mode, on the CPU.
        x: Images, on the CPU.
        repeats: Timed turns.
    """
    torch.compiler.reset()
    ways: dict[str, Net] = {"onnxruntime": in_onnxruntime(net), "eager": net, "compiled": compile_inference(net)}
    with torch.no_grad():
        for a, b in zip(ways["onnxruntime"](x), net(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * b.abs().max().item())
    seconds = dict(zip(ways, paired_seconds([inference(way, x) for way in ways.values()], repeats), strict=True))
    rows = [(way, f"{statistics.median(own):.3f}", ratio(seconds["onnxruntime"], own)) for way, own in seconds.items()]
    for row in rows:
        print(name, *row, flush=True)
    return [
        f"### {name} beside onnxruntime",
        "",
        f"{images(x)}, float32, on the CPU; compiled by `backbones.engine.compile_inference`, exported by "
        f"`densebackbones export`. Median seconds, and how many times as fast as onnxruntime, median of {repeats} "
        "pairs (smallest to largest).",
        "",
        *table(("way", "seconds", "times as fast"), rows),
    ]


def in_onnxruntime(net: DenseBackbone) -> Net:
    """The network as an ONNX file in onnxruntime, with PyTorch's number of threads."""
    network = Network(net)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        onnx_file.save(trace(network), file, network.names, {})
        return onnx_file.load(file)
