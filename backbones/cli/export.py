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
from typing import Any

from backbones.checkpoints import CheckpointError, load_pretrained
from backbones.cli import _runs
from backbones.cli._checkpoints import load_weights
from backbones.config.options import Options
from backbones.config.swap import BACKBONES
from backbones.export import onnx_file, torch_file
from backbones.export.metadata import describe
from backbones.export.outputs import Network
from backbones.export.program import BOUND, largest_error, trace
from backbones.usage import UsageError, make_folder, note

FORMATS = {"onnx": onnx_file, "torch": torch_file}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("model", help=f"a config, or a backbone: {', '.join(BACKBONES)}")
    parser.add_argument("checkpoint", nargs="?", help="weights; without them they are random")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument("--format", choices=list(FORMATS), default="onnx", help="file format (default: %(default)s)")
    parser.add_argument("--arch", help="preset of a backbone (default: its first)")
    parser.add_argument(
        "--options", nargs="+", action=Options, default={}, metavar="KEY=VALUE", help="arguments of a backbone"
    )
    parser.set_defaults(**_runs.DEFAULTS)


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
    network, metadata = build(args)
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


def build(args: argparse.Namespace) -> tuple[Network, dict[str, Any]]:
    """The network to export, with its weights, and its metadata.

    Raises:
        UsageError: for an unknown name, wrong arguments, or weights that do not fit.
    """
    if args.checkpoint is None:
        note("no CHECKPOINT is given, so the weights are random")
    if args.model in BACKBONES:
        network = Network(build_backbone(args))
        return network, describe(network)
    if args.arch or args.options:
        raise UsageError("--arch and --options belong to a backbone; a config has its own")
    if "::" not in args.model and not args.model.endswith(".py"):
        raise UsageError(f"{args.model} is neither a config (FILE.py) nor a backbone: {', '.join(BACKBONES)}")
    args.config = args.model
    cfg = _runs.load_config(args)
    model = _runs.build_model(cfg)
    meta = load_weights(model, cfg, args.checkpoint) if args.checkpoint else {}
    network = Network(model)
    return network, describe(network, cfg, meta.get("dataset_meta"))


def build_backbone(args: argparse.Namespace) -> Any:
    """A backbone with its weights."""
    cls = BACKBONES[args.model]
    given = {"arch": next(iter(cls.archs)), **args.options, **({"arch": args.arch} if args.arch else {})}
    try:
        backbone = cls(**given)
        report = load_pretrained(backbone, args.checkpoint) if args.checkpoint else None
    except (TypeError, ValueError, FileNotFoundError, CheckpointError) as error:
        raise UsageError(f"{args.model}: {error}") from error
    if report and report.missing:
        note(
            f"{args.checkpoint} lacks {len(report.missing)} weights, which are random: {', '.join(report.missing[:4])}"
        )
    return backbone
