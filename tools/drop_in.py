#!/usr/bin/env python
"""Puts a backbone into a config you have: ``python tools/drop_in.py CONFIG --backbone RevCol --arch tiny -o NEW.py``.

Writes a config that keeps the old one as its ``_base_`` and holds the differences, and prints each with its reason.
"""

import argparse
import copy
import logging
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _hosts import base_expression, find_config, random_batch
from _swap import BACKBONES, Change, swap_backbone
from _usage import UsageError, run
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

LINE = 110  # characters of a written config


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Put a backbone of this package into a config of mmdet, mmsegmentation or mmpretrain."
    )
    parser.add_argument(
        "config", help="a stock config such as mmdet::retinanet/retinanet_r50_fpn_1x_coco.py, or a path"
    )
    parser.add_argument("--backbone", required=True, choices=list(BACKBONES), help="class")
    parser.add_argument("--arch", help="preset of the backbone (README lists them; default: the class's own)")
    parser.add_argument(
        "--options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help="arguments of the backbone"
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
    parser.add_argument("--check", action="store_true", help="build the model; one training step on noise")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="config to write")
    return parser.parse_args(argv)


def load_stock(name: str) -> Config:
    """A stock config, or one's own."""
    path = find_config(name)
    if "read_base()" in path.read_text():
        raise UsageError(
            f"{name} is written in mmengine's pure-Python style, which cannot be the base of a config with strings. "
            "Take the config of the same name in the text style, or set backbone and in_channels in a copy by hand"
        )
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is a program and may fail in any way
        raise UsageError(f"{name} cannot be read: {error}") from error
    init_default_scope(cfg.get("default_scope", "mmengine"))
    return cfg


# -------------------------------------------------------------------------------------------------------------- writing
def delta(cfg: Config, changes: Sequence[Change]) -> dict[str, Any]:
    """The changes as nested dicts that mmengine merges into the stock config.

    Lists cannot be merged, so one that a change lies in is written whole.
    """
    tree: dict[str, Any] = {}
    for change in changes:
        node, stock, parts = tree, cfg.to_dict(), change.key.split(".")
        for part in parts[:-1]:
            inside: Any = stock[int(part)] if isinstance(stock, list) else (stock or {}).get(part)
            if isinstance(node, list):
                node = node[int(part)]
            else:
                node = node.setdefault(part, inside if isinstance(inside, list) else {})
            stock = inside
        node[parts[-1]] = change.new
    return tree


def render(value: Any, indent: int = 0, used: int = 0) -> str:
    """A value as Python, on one line if it fits.

    Args:
        value: Anything that a config may hold.
        indent: Depth of the line it starts on.
        used: Characters before and behind it on that line.
    """
    if isinstance(value, dict) and all(str(key).isidentifier() for key in value):
        items = [(f"{key}=", child) for key, child in value.items()]
        start, end = "dict(", ")"
    elif isinstance(value, dict):
        items, start, end = [(f"{key!r}: ", child) for key, child in value.items()], "{", "}"
    elif isinstance(value, (list, tuple)):
        items = [("", child) for child in value]
        start, end = ("[", "]") if isinstance(value, list) else ("(", ",)" if len(value) == 1 else ")")
    else:
        text = repr(value)
        return f'"{text[1:-1]}"' if text.startswith("'") and '"' not in text else text
    line = start + ", ".join(key + render(child, 0, -(10**9)) for key, child in items) + end
    if used + 4 * indent + len(line) <= LINE:
        return line
    pad = "    " * (indent + 1)
    rows = [f"{pad}{key}{render(child, indent + 1, len(key) + 1)},\n" for key, child in items]
    return f"{start}\n{''.join(rows)}{'    ' * indent}{end[-1]}"


def write(args: argparse.Namespace, changes: Sequence[Change], cfg: Config) -> None:
    """Write the config; never over another file."""
    out = Path(args.out)
    if out.exists():
        raise UsageError(f"{out} exists and is left alone; remove it or choose another name: -o FILE")
    if out.suffix != ".py":
        raise UsageError(f"-o {out}: a config with a _base_ is a Python file, so give a name ending in .py")
    lines = [f'"""{Path(args.config.rpartition("::")[2]).stem} with {args.backbone}; made by tools/drop_in.py."""', ""]
    lines.append(f"_base_ = {base_expression(args.config, out.parent)}")
    lines += [f"{key} = {render(value, 0, len(key) + 3)}" for key, value in delta(cfg, changes).items()]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


def describe(changes: Sequence[Change]) -> str:
    """The changes as a diff, the reason under each; long stock values are cut."""
    lines = []
    for change in changes:
        if change.old is not None:
            old = f"- {change.key} = {_plain(change.old)}"
            lines.append(textwrap.shorten(old, LINE, placeholder=" ..."))
        lines += [f"+ {change.key} = {_plain(change.new)}", f"    {change.why}"]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """On one line, as it stands in the merged config."""
    value = value.to_dict() if isinstance(value, ConfigDict) else value
    if isinstance(value, dict):
        value = {key: child for key, child in value.items() if key != "_delete_"}
    return render(value, 0, -(10**9))


# ------------------------------------------------------------------------------------------------------------- checking
def check(cfg: Config, size: int = 256) -> str:
    """One training step and one prediction on noise.

    Args:
        cfg: A config whose backbone is one of this package; its default scope must be the current one.
        size: Height and width of the images, in pixels. What a config does to whole batches (padding to its crop size,
            mixing) is left out.

    Returns:
        What was seen, in a line.

    Raises:
        UsageError: if the loss is not finite, or a trainable parameter of the backbone gets no gradient.
    """
    settings = copy.deepcopy(cfg.model)
    images = settings.setdefault("data_preprocessor", copy.deepcopy(cfg.get("data_preprocessor", {})))  # as in a runner
    images.pop("batch_augments", None)
    if images.get("size"):
        images["size"] = (size, size)
    host = cfg.get("default_scope", "mmengine")
    model: Any = MODELS.build(settings)
    logging.disable(logging.INFO)  # the hosts' initialisation tells of every parameter
    model.init_weights()
    logging.disable(logging.NOTSET)
    model.train()
    MessageHub.get_current_instance().update_info("epoch", 0)  # some losses ask the runner for it
    masks = any("mask" in name for name, _ in model.named_modules())
    batch = random_batch(host, size, masks, images=1 if host == "mmdet" else 2)  # batch norms of pooled maps need two
    total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    total.backward()
    if not torch.isfinite(total):
        raise UsageError(f"the training loss on noise is {total.item()}")
    idle = [name for name, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise UsageError(f"{len(idle)} parameters of the backbone get no gradient: {', '.join(idle[:4])}")
    model.eval()
    with torch.no_grad():
        (prediction,) = model.test_step(random_batch(host, size, masks, images=1))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return (
        f"{type(model).__name__} with {millions:.1f} M parameters: loss {total.item():.3f} on noise, every trainable "
        f"parameter of the backbone has a gradient, prediction is a {type(prediction).__name__}"
    )


def main(args: argparse.Namespace) -> None:
    """Exchange the backbone, write the config, say what changed."""
    cfg = load_stock(args.config)
    options = dict(args.options, **({"arch": args.arch} if args.arch else {}))
    if args.pretrained and ":" not in args.pretrained and not Path(args.pretrained).expanduser().is_file():
        raise UsageError(f"--pretrained: there is no file {args.pretrained}; give a path or a URL")
    if args.layer_decay is not None and not 0 < args.layer_decay <= 1:
        raise UsageError(f"--layer-decay is {args.layer_decay}; it must lie in (0, 1], for example 0.85")
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
    write(args, changes, cfg)
    print(describe(changes))
    print(f"\n{args.out} is written: python tools/train.py {args.out}")
    if args.check:
        try:
            print(check(Config.fromfile(args.out)))
        except Exception as error:  # whatever a host's model says
            raise UsageError(f"--check: the written config does not work: {error}") from error


if __name__ == "__main__":
    run(main, parse_args())
