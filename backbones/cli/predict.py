"""Predict on images and videos, and write pictures and results.

INPUT is an image, a video, a folder or a pattern, as often as needed:

    densebackbones predict CONFIG CHECKPOINT photos/ -o predictions
    densebackbones predict CONFIG CHECKPOINT 'photos/*.jpg' clip.mp4 -o predictions --score-thr 0.5
    densebackbones predict CONFIG CHECKPOINT --serve

OUT gets pictures/ (and videos/), predictions.json and images.json. For a detector predictions.json holds COCO's
results, masks as run lengths: COCO("images.json").loadRes("predictions.json"). For a segmentor label_maps/ has the
class of each pixel, for a panoptic model segments/ in COCO's format; for a classifier predictions.json has the five
best classes.

A file that cannot be read is named and skipped; the exit status is then 3.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from backbones.cli._checkpoints import load_model_weights
from backbones.config.hosts import find_config
from backbones.config.lookup import read_config
from backbones.config.own_data import task_of
from backbones.datasets.find import dataset_class, inner_datasets
from backbones.usage import UsageError

SKIPPED = 3  # exit status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("config", help="config of the training; its work dir has a copy")
    parser.add_argument("checkpoint", help="checkpoint of the training")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="image, video, folder or pattern")
    parser.add_argument("-o", "--out", type=Path, help="folder to write, new or empty")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images at a time (default: %(default)s, as exact as test)"
    )
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="least score of drawn objects (default: %(default)s)"
    )
    parser.add_argument(
        "--tile", type=int, metavar="SIDE", help="cut images into tiles of this many pixels; for detectors"
    )
    parser.add_argument(
        "--overlap", type=float, default=0.2, help="share that tiles have in common (default: %(default)s)"
    )
    parser.add_argument(
        "--annotations", metavar="FILE", help="COCO file with the ids of these images and classes, for an evaluation"
    )
    parser.add_argument("--serve", action="store_true", help="open a page on which images are dropped, instead of -o")
    parser.add_argument("--port", type=int, default=7860, help="of the page (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Predict and write; returns 3 if a file was skipped.

    Raises:
        UsageError: for wrong arguments, or a checkpoint of another model.
    """
    check(args)
    cfg = read_config(find_config(args.config))
    task = task_of(cfg)
    if args.tile and task != "detection":
        raise UsageError(f"--tile is for detectors; this is a model for {task}")
    from backbones.predict import inputs
    from backbones.predict.predictor import Predictor, build_model
    from backbones.predict.run import Run

    sources = [] if args.serve else inputs.find(args.inputs)
    model = build_model(cfg)
    classes = load_model_weights(model, cfg, args.checkpoint) or config_classes(cfg)
    predictor = Predictor(cfg, model, args.device)
    ids, categories = annotated(args.annotations, classes)
    writer = importlib.import_module(f"backbones.predict.{task}").WRITER(
        args.out or Path(), cfg, classes, args.score_thr, categories
    )
    if args.serve:
        from backbones.predict.serve import serve

        serve(predictor, writer, args.port)
        return 0
    tile = (args.tile, args.overlap) if args.tile else None
    run = Run(predictor, writer, args.batch_size, tile, ids)
    run(sources)
    print(f"{args.out}: predictions on {len(run.images)} images")
    if run.failed:
        print(f"{len(run.failed)} files could not be read:\n" + "\n".join(run.failed))
    return SKIPPED if run.failed else 0


def check(args: argparse.Namespace) -> None:
    """Refuse arguments that cannot work.

    Raises:
        UsageError: naming the argument.
    """
    if not args.serve and not (args.inputs and args.out):
        raise UsageError("name the images and a folder for the results: INPUT ... -o OUT, or --serve")
    if args.out and args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise UsageError(f"{args.out} exists and is left alone; remove it or choose another folder: -o OUT")
    if args.batch_size < 1:
        raise UsageError(f"--batch-size is {args.batch_size}; it must be at least 1")
    if args.tile is not None and args.tile < 32:
        raise UsageError(f"--tile is {args.tile}; it must be at least 32 pixels, for example 1024")
    if not 0 <= args.overlap < 1:
        raise UsageError(f"--overlap is {args.overlap}; it must lie in [0, 1), for example 0.2")


def config_classes(cfg: Config) -> tuple[str, ...]:
    """The class names in a config, for a checkpoint without any.

    Raises:
        UsageError: if the config has none.
    """
    dataset = next(inner_datasets(cfg.test_dataloader))
    names: Any = (dataset.get("metainfo") or {}).get("classes")
    names = names or (getattr(dataset_class(dataset), "METAINFO", None) or {}).get("classes")
    if not names or isinstance(names, str):
        raise UsageError(
            "neither the checkpoint nor the config names the classes; set metainfo.classes of the data set"
        )
    return tuple(names)


def annotated(file: str | None, classes: tuple[str, ...]) -> tuple[dict[str, int], list[int]]:
    """Image ids by file name, and category ids in the order of the classes; without a file 1, 2, ...

    Raises:
        UsageError: for a file that cannot be read or lacks a class.
    """
    if file is None:
        return {}, list(range(1, len(classes) + 1))
    try:
        content = json.loads(Path(file).read_text())
        ids = {Path(image["file_name"]).name: image["id"] for image in content["images"]}
        by_name = {category["name"]: category["id"] for category in content["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--annotations: {file} is not a file of COCO's format ({error})") from error
    if lacking := [name for name in classes if name not in by_name]:
        raise UsageError(f"--annotations: {file} lacks the classes {', '.join(lacking)}; it has {', '.join(by_name)}")
    return ids, [by_name[name] for name in classes]
