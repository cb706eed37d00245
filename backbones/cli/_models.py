"""The model of ``export`` and ``look``: a config's, or a backbone alone, with its weights."""

import argparse
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from torch import nn

from backbones.checkpoints import CheckpointError, load_pretrained
from backbones.cli import _runs
from backbones.cli._checkpoints import load_weights
from backbones.config.options import Options
from backbones.config.swap import BACKBONES
from backbones.usage import UsageError, note


@dataclass(frozen=True)
class Built:
    """A model with its weights.

    Attributes:
        model: The config's model, or the backbone.
        settings: Config of the backbone.
        cfg: The config; None for a backbone alone.
        meta: ``meta`` of the checkpoint of a training, else empty.
    """

    model: nn.Module
    settings: dict[str, Any]
    cfg: Config | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a model; the verb adds ``checkpoint``."""
    parser.add_argument("model", metavar="MODEL", help=f"a config, or a backbone: {', '.join(BACKBONES)}")
    parser.add_argument("--arch", help="preset of a backbone (default: its first)")
    parser.add_argument(
        "--options", nargs="+", action=Options, default={}, metavar="KEY=VALUE", help="arguments of a backbone"
    )
    parser.set_defaults(**_runs.DEFAULTS)


def build(args: argparse.Namespace) -> Built:
    """Build the model and load its weights.

    Raises:
        UsageError: for an unknown name, wrong arguments, or weights that do not fit.
    """
    if args.checkpoint is None:
        note("no CHECKPOINT is given, so the weights are random")
    if args.model in BACKBONES:
        return _build_backbone(args)
    if args.arch or args.options:
        raise UsageError("--arch and --options belong to a backbone; a config has its own")
    if "::" not in args.model and not args.model.endswith(".py"):
        raise UsageError(f"{args.model} is neither a config (FILE.py) nor a backbone: {', '.join(BACKBONES)}")
    args.config = args.model
    cfg = _runs.load_config(args)
    model = _runs.build_model(cfg)
    meta = load_weights(model, cfg, args.checkpoint) if args.checkpoint else {}
    return Built(model, cfg.model.get("backbone"), cfg, meta)


def _build_backbone(args: argparse.Namespace) -> Built:
    cls: Any = BACKBONES[args.model]
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
    return Built(backbone, dict(type=f"backbones.{args.model}", **given))
