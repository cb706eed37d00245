"""Take the backbone's weights out of a training checkpoint.

Heads, necks, optimizer and schedules are dropped. The file loads as ``dict(type="Pretrained", checkpoint=...)``, the
``init_cfg`` of the same backbone in any model. Example: densebackbones export-weights epoch_12.pth -o backbone.pth
"""

import argparse
import ast
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS

from backbones.base import Backbone
from backbones.checkpoints import find_weights
from backbones.cli._checkpoints import plain_names, read_checkpoint
from backbones.usage import UsageError, make_folder, note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("checkpoint", help="checkpoint of a trained classifier, detector or segmentor")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--layout",
        choices=["ours", "official"],
        default="ours",
        help="ours: bare names, with the pyramid; official: wrapped as by the backbone's authors, without the pyramid",
    )
    parser.add_argument("--format", choices=["pth", "safetensors"], default="pth", help="file format (default: pth)")


def main(args: argparse.Namespace) -> None:
    """Read the checkpoint, keep the backbone, write the file."""
    out = Path(args.out)
    if out.exists():
        raise UsageError(f"{out} exists and is left alone; remove it or choose another name: -o FILE")
    checkpoint = read_checkpoint(args.checkpoint)
    cls = backbone_class(checkpoint, args.checkpoint)
    everything = plain_names(find_weights(checkpoint)[1])
    weights = {name[9:]: value.contiguous() for name, value in everything.items() if name.startswith("backbone.")}
    if not weights:
        raise UsageError(
            f"{args.checkpoint} has no keys with the prefix backbone., so it is not of a model with a backbone"
        )
    wrapper, prefix = cls.published_layout if args.layout == "official" else ("state_dict", "")
    if args.layout == "official" and (own := [name for name in weights if name.startswith("pyramid.")]):
        note(f"{len(own)} weights of the pyramid are left out: official files of {cls.__name__} have none")
        weights = {name: value for name, value in weights.items() if name not in own}
    weights = {f"{prefix}{name}": value for name, value in weights.items()}
    make_folder(out.parent)
    if args.format == "safetensors":
        from safetensors.torch import save

        out.write_bytes(save(weights))
    else:
        with out.open("wb") as file:  # torch's errors do not name it
            torch.save({wrapper: weights} if wrapper else weights, file)
    count = sum(value.numel() for value in weights.values())
    print(f"{out}: {len(weights)} weights of a {cls.__name__}, {count / 1e6:.2f} M values, without {_rest(everything)}")


def backbone_class(checkpoint: dict[str, Any], path: str) -> type[Backbone]:
    """The class of a checkpoint's backbone, by the config in the file."""
    meta = checkpoint.get("meta")
    text = meta.get("cfg") if isinstance(meta, dict) else None
    if not isinstance(text, str):
        raise UsageError(f"{path} has no config of its training (meta.cfg); give a checkpoint that a training wrote")
    name = _backbone_type(text) or "model without a backbone"
    found = MODELS.module_dict.get(name.rpartition(".")[2])
    if found is None or not issubclass(found, Backbone):
        raise UsageError(f"the backbone of {path} is a {name}, which is not a backbone of this package")
    return found


def _backbone_type(config: str) -> str | None:
    """``model.backbone.type`` of a config's text. The text is not run: anyone may have written the file."""
    try:
        nodes: list[ast.AST] = [ast.parse(config)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for name in ("model", "backbone", "type"):  # model = dict(backbone=dict(type='...'))
        nodes = [
            child.value
            for node in nodes
            for child in ast.iter_child_nodes(node)
            if (isinstance(child, ast.keyword) and child.arg == name)
            or (isinstance(child, ast.Assign) and [ast.unparse(target) for target in child.targets] == [name])
        ]
    found = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found[-1] if found else None


def _rest(everything: dict[str, Any]) -> str:
    names = sorted({name.partition(".")[0] for name in everything} - {"backbone"})
    return ", ".join(names) or "anything"
