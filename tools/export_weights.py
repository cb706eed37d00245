#!/usr/bin/env python
"""Takes a backbone's weights out of a training's checkpoint: ``python tools/export_weights.py CKPT -o backbone.pth``.

Heads, necks, optimiser and schedules stay behind. What is written loads as ``init_cfg=dict(type="Pretrained",
checkpoint=...)`` of the same backbone, in any model.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from _cli import read_checkpoint
from _usage import UsageError, run, say
from mmengine.config import Config
from mmengine.registry import MODELS

from backbones.base import Backbone
from backbones.checkpoints import find_weights


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Take a backbone's weights out of a checkpoint of a training.")
    parser.add_argument("checkpoint", help="checkpoint of tools/train.py: a classifier, detector or segmentor")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--layout",
        choices=["ours", "official"],
        default="ours",
        help="bare names with the pyramid (ours), or as the authors of the backbone wrap theirs, without it (official)",
    )
    parser.add_argument("--format", choices=["pth", "safetensors"], default="pth", help="kind of file (default: pth)")
    return parser.parse_args(argv)


def backbone_class(checkpoint: dict[str, Any], path: str) -> type[Backbone]:
    """The class of the backbone that a checkpoint was trained with; its config is in the file."""
    text = checkpoint.get("meta", {}).get("cfg")
    if not isinstance(text, str):
        raise UsageError(
            f"{path} has no config of its training (meta.cfg); give a checkpoint that tools/train.py wrote"
        )
    name = Config.fromstring(text, ".py").model.get("backbone", {}).get("type", "model without a backbone")
    found = MODELS.module_dict.get(str(name).rpartition(".")[2])
    if found is None or not issubclass(found, Backbone):
        raise UsageError(f"the backbone of {path} is a {name}, which is none of this package")
    return found


def main(args: argparse.Namespace) -> None:
    """Read, strip, write."""
    out = Path(args.out)
    if out.exists():
        raise UsageError(f"{out} exists and is left alone; remove it or choose another name: -o FILE")
    checkpoint = read_checkpoint(args.checkpoint)
    cls = backbone_class(checkpoint, args.checkpoint)
    _, everything = find_weights(checkpoint)
    everything = {name.removeprefix("module."): value for name, value in everything.items()}
    weights = {name[9:]: value.contiguous() for name, value in everything.items() if name.startswith("backbone.")}
    if not weights:
        raise UsageError(f"{args.checkpoint} has no names that begin with backbone.; it is no model with a backbone")
    wrapper, prefix = cls.published_layout if args.layout == "official" else ("state_dict", "")
    if args.layout == "official" and (own := [name for name in weights if name.startswith("pyramid.")]):
        say(f"{len(own)} weights of the pyramid are left out: official files of {cls.__name__} have none")
        weights = {name: value for name, value in weights.items() if name not in own}
    weights = {f"{prefix}{name}": value for name, value in weights.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.format == "safetensors":
        from safetensors.torch import save_file

        save_file(weights, out)
    else:
        torch.save({wrapper: weights} if wrapper else weights, out)
    count = sum(value.numel() for value in weights.values())
    print(f"{out}: {len(weights)} weights of a {cls.__name__}, {count / 1e6:.2f} M values, without {_rest(everything)}")


def _rest(everything: dict[str, Any]) -> str:
    names = sorted({name.partition(".")[0] for name in everything} - {"backbone"})
    return ", ".join(names) or "anything"


if __name__ == "__main__":
    run(main, parse_args())
