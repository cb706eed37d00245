#!/usr/bin/env python
"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``. Works for mmdet, mmseg and mmpretrain configs."""

import argparse
import inspect
import json
import os
from pathlib import Path

from _cli import (
    UsageError,
    build_runner,
    check_data,
    check_fits,
    load_config,
    make_parser,
    read_checkpoint,
    run,
)
from _pictures import enlarge_small_images
from mmengine.config import Config
from mmengine.registry import HOOKS, METRICS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("Evaluate a checkpoint, dump or draw its predictions.")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--show-dir", help="write a picture of each image here, ground truth left, prediction right")
    parser.add_argument("--out", help="write the predictions to this .pkl file, the metrics to a .json file beside it")
    return parser.parse_args(argv)


def set_show_dir(cfg: Config, folder: str) -> None:
    """Let the host's visualisation hook draw every test image into ``folder``."""
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise UsageError("--show-dir: the config has no default_hooks.visualization, the host's hook that draws")
    folder = os.path.abspath(folder)
    with HOOKS.switch_scope_and_registry(None) as registry:
        options = inspect.signature(registry.get(hook["type"])).parameters
    hook.update({key: True for key in ("draw", "enable") if key in options}, interval=1)
    out_dir = next((key for key in ("test_out_dir", "out_dir") if key in options), None)  # mmdet's, mmpretrain's
    if out_dir:
        hook[out_dir] = folder
    else:  # mmseg's hook leaves the place to the visualizer
        cfg.visualizer.save_dir = folder


def dump_metric(path: str) -> dict:
    """The host's metric that writes predictions to a file; mmdet's own compresses masks."""
    with METRICS.switch_scope_and_registry(None) as registry:
        compressing = "DumpDetResults" in registry.module_dict
    return dict(type="DumpDetResults" if compressing else "DumpResults", out_file_path=path)


def main(args: argparse.Namespace) -> None:
    """Check everything that can be checked, then evaluate."""
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise UsageError(f"--out {args.out}: predictions are written as a pickle, so give a name ending in .pkl")
    cfg = load_config(args)
    if "test_dataloader" not in cfg:
        raise UsageError(f"{args.config} has no test_dataloader; it is not a config for testing")
    checkpoint = read_checkpoint(args.checkpoint)
    check_data(cfg, ("test",))
    if args.show_dir:
        set_show_dir(cfg, args.show_dir)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    runner = build_runner(cfg)
    check_fits(runner.model, checkpoint, args.checkpoint)
    del checkpoint
    if args.show_dir:
        enlarge_small_images(runner.visualizer)
    if args.out:
        runner.test_evaluator.metrics.append(METRICS.build(dump_metric(args.out)))
    metrics = runner.test()
    if args.out:
        Path(args.out).with_suffix(".json").write_text(json.dumps(metrics, indent=2, default=float) + "\n")


if __name__ == "__main__":
    run(main, parse_args())
