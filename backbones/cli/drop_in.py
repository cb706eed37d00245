"""Put a backbone of this package into a config of mmdet, mmsegmentation or mmpretrain.

The new config has the old one as its ``_base_`` and holds the differences, which are also printed with their reasons.
Example: densebackbones drop-in mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --backbone RevCol --arch tiny -o NEW.py
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from backbones.cli import _own_data
from backbones.config.hosts import base_expression, find_config
from backbones.config.lookup import read_config
from backbones.config.options import Options
from backbones.config.swap import BACKBONES, Change, swap_backbone
from backbones.config.trial import try_model
from backbones.config.write import delta, diff, render
from backbones.usage import UsageError, command, make_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument(
        "config", help="a stock config such as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py, or a path"
    )
    parser.add_argument("--backbone", required=True, choices=list(BACKBONES), help="class of the backbone")
    parser.add_argument("--arch", help="preset of the backbone (default: the class's own)")
    parser.add_argument(
        "--options", nargs="+", action=Options, default={}, metavar="KEY=VALUE", help="arguments of the backbone"
    )
    parser.add_argument("--pretrained", metavar="PATH", help="checkpoint to start from, a path or URL")
    parser.add_argument(
        "--layer-decay",
        type=float,
        metavar="RATE",
        help="factor of the learning rate from layer to layer (default: 0.85 with --pretrained, otherwise 1)",
    )
    parser.add_argument(
        "--style",
        choices=["scope", "custom_imports"],
        default="scope",
        help="how the config finds the class: type='backbones.RevCol', or type='RevCol' with custom_imports",
    )
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data for --classes")
    _own_data.add_arguments(parser)
    parser.add_argument("--check", action="store_true", help="build the model and train it for one step on noise")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="config to write")


def main(args: argparse.Namespace) -> None:
    """Exchange the backbone, write the config and print the changes."""
    cfg = load_stock(args.config)
    options = dict(args.options, **({"arch": args.arch} if args.arch else {}))
    if args.pretrained and ":" not in args.pretrained and not Path(args.pretrained).expanduser().is_file():
        raise UsageError(f"--pretrained: there is no file {args.pretrained}; give a path or a URL")
    if args.layer_decay is not None and not 0 < args.layer_decay <= 1:
        raise UsageError(f"--layer-decay is {args.layer_decay}; it must be in (0, 1], for example 0.85")
    try:
        changes = swap_backbone(
            cfg,
            args.backbone,
            options,
            pretrained=args.pretrained,
            layer_decay=args.layer_decay,
            scope=args.style == "scope",
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{args.backbone}: {error}") from error
    if args.classes:
        changes += _own_data.changes(cfg, args)
    write(args, changes, cfg)
    print(diff(changes))
    print(f"\nwrote {args.out}; to train it: {command('train')} {args.out}")
    if args.check:
        try:
            print(try_model(Config.fromfile(args.out)))
        except Exception as error:  # models of the hosts raise anything
            raise UsageError(f"--check: the written config does not work: {error}") from error


def load_stock(name: str) -> Config:
    """Read the config to change, and enter its default scope."""
    path = find_config(name)
    if b"read_base()" in path.read_bytes():
        raise UsageError(
            f"{name} is written in mmengine's pure-Python style, which cannot be the base of a config with strings. "
            "Take the config of the same name in the text style, or set backbone and in_channels in a copy by hand"
        )
    return read_config(path)


def write(args: argparse.Namespace, changes: Sequence[Change], cfg: Config) -> None:
    """Write the config; an existing file is left alone."""
    out = Path(args.out)
    if out.exists():
        raise UsageError(f"{out} exists and is left alone; remove it or choose another name: -o FILE")
    if out.suffix != ".py":
        raise UsageError(f"-o {out}: a config with a _base_ is a Python file, so its name must end in .py")
    lines = [
        f'"""{Path(args.config.rpartition("::")[2]).stem} with {args.backbone}; written by densebackbones drop-in."""'
    ]
    lines += ["", f"_base_ = {base_expression(args.config, out.parent)}"]
    lines += [f"{key} = {render(value, 0, len(key) + 3)}" for key, value in delta(cfg, changes).items()]
    make_folder(out.parent)
    out.write_text("\n".join(lines) + "\n")
