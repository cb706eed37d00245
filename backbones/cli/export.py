"""Write a model as ONNX, or as a program of torch.export.

The file takes images of any number, height and width, from 32 pixels, and runs without this package:

  densebackbones export CONFIG work_dirs/NAME/epoch_12.pth -o model.onnx
  densebackbones export RevCol revcol_tiny_1k.pth --arch tiny -o revcol.onnx
  densebackbones export PlainViT -o vit.pt2 --format torch

A config gives a classifier (logits), a segmentor (logits of each pixel), or a single-stage detector such as RetinaNet,
FCOS or RTMDet (class scores and boxes of each level as the head predicts them, before decoding and NMS). A class alone
gives its maps, by default with its first preset. Two-stage and query-based detectors are refused with the reason.

Each file is compared with PyTorch at three sizes; one that differs by more than 1e-4 of the largest value is removed.
It carries class names, mean, std, channel order, strides and channels as metadata.
"""

import argparse
import importlib
import importlib.util
from pathlib import Path

from backbones.cli import _models
from backbones.export import onnx_file, torch_file
from backbones.export.metadata import describe
from backbones.export.outputs import Network
from backbones.export.program import BOUND, largest_error, trace
from backbones.usage import UsageError, make_folder

FORMATS = {"onnx": onnx_file, "torch": torch_file}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    _models.add_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="weights; without them they are random")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument("--format", choices=list(FORMATS), default="onnx", help="file format (default: %(default)s)")


def main(args: argparse.Namespace) -> None:
    """Build the model, write the file, compare it with the model."""
    file, kind = Path(args.out), FORMATS[args.format]
    if file.exists():
        raise UsageError(f"{file} exists and is left alone; remove it or choose another name: -o FILE")
    if file.suffix != kind.SUFFIX:
        raise UsageError(f"-o {file}: the name of a file of --format {args.format} must end in {kind.SUFFIX}")
    if missing := [package for package in kind.PACKAGES if importlib.util.find_spec(package) is None]:
        raise UsageError(
            f"--format {args.format} needs {', '.join(missing)}; install them: pip install 'densebackbones[export]'"
        )
    built = _models.build(args)
    network = Network(built.model)
    metadata = describe(network, built.cfg, built.meta.get("dataset_meta"))
    make_folder(file.parent)
    print(f"tracing {type(network.model).__name__}", flush=True)
    program = trace(network)
    try:
        print(f"writing {file}", flush=True)
        kind.save(program, file, network.names, metadata)
        print("comparing it with PyTorch", flush=True)
        error = largest_error(network, kind.load(file))
        if error > BOUND:
            raise UsageError(
                f"its outputs differ from PyTorch's by {error:.1e} of the largest value, more than {BOUND}"
            )
    except BaseException as problem:
        for written in file.parent.glob(f"{file.name}*"):  # and FILE.data, of large models
            written.unlink()
        if isinstance(problem, UsageError):
            raise UsageError(f"{file} is removed: {problem}") from problem
        raise
    print(f"{file}: images (batch, 3, height, width) to {', '.join(network.names)}")
    print(f"largest relative error to PyTorch at three sizes: {error:.1e}")
