"""Predict images, folders and videos: pictures, and the results as JSON.

Examples:
    densebackbones predict CONFIG work_dirs/NAME/epoch_12.pth photographs -o predictions
    densebackbones predict CONFIG CHECKPOINT 'day_*/*.jpg' film.mp4 -o predictions --batch-size 8
    densebackbones predict CONFIG CHECKPOINT satellite.png -o predictions --tile 1024 --overlap 0.2
    densebackbones predict CONFIG CHECKPOINT --serve

Inputs are images, videos, folders (searched with their subfolders) and patterns in quotes. Models are detectors, also
with masks, panoptic and semantic segmentors, and classifiers. Images are prepared as by densebackbones test, so the
boxes and scores are the same, with any --batch-size.

    FOLDER/pictures/          a picture (.jpg) or video (.mp4) for each input
    FOLDER/label_maps/        of a segmentor: the class index of each pixel (.png); panoptic: segments in COCO's colours
    FOLDER/predictions.json   results in COCO's format: boxes, run-length masks; of a classifier the five best classes
    FOLDER/images.json        id, file name and size of each image; id and name of each class
    FOLDER/panoptic.json      of a panoptic segmentor: COCO's panoptic file

pycocotools reads the results: COCO("FOLDER/images.json").loadRes("FOLDER/predictions.json"). If all images are of the
config's test set, images and classes have the ids of its annotation file; with --annotations, those of another file.
Otherwise images are numbered from 1 and classes from 0. predictions.json has every box of the model; --score-thr is for
the pictures.

Unreadable files are skipped and listed at the end. The exit status is 0, 3 if a file was skipped, or 2 if there was
nothing to predict or an argument is wrong.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from backbones.cli import _runs
from backbones.cli._checkpoints import load_weights
from backbones.config.options import HELP as OPTIONS_HELP
from backbones.config.options import Options
from backbones.datasets.metainfo import class_meta
from backbones.predict.ids import choose_ids
from backbones.predict.inputs import find_inputs
from backbones.predict.output import Output, check_folder
from backbones.predict.page import make_page
from backbones.predict.pictures import Pictures
from backbones.predict.predictor import Predictor
from backbones.predict.tiles import TiledPredictor
from backbones.usage import UsageError, note

SKIPPED = 3  # exit status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("config", help="config file, or densebackbones::FILE.py for one that the package ships")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="images, videos, folders or patterns")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="folder to write, new or empty")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default: as the config tests)")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="boxes below this score are not drawn (default: %(default)s)"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="for images larger than those of the training: predict square tiles of this side, and larger objects from "
        "the whole image, and keep the best of the boxes that cover one another; detectors only",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="overlap of neighbouring tiles (default: %(default)s)",
    )
    parser.add_argument(
        "--annotations", metavar="FILE", help="take the ids of images and categories from this file in COCO's format"
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="open a page where an image is dropped and its prediction seen, instead of writing files; the variables "
        "GRADIO_SERVER_NAME and GRADIO_SERVER_PORT set its address",
    )
    parser.add_argument("--cfg-options", nargs="+", action=Options, default={}, metavar="KEY=VALUE", help=OPTIONS_HELP)
    parser.set_defaults(**_runs.DEFAULTS)


def main(args: argparse.Namespace) -> int:
    """Check, then predict or serve."""
    check_arguments(args)
    device = _runs.find_device(args.device)
    inputs = None if args.serve else find_inputs(args.inputs)
    cfg = _runs.load_config(args)
    model = _runs.build_model(cfg)
    meta = class_meta(cfg, load_weights(model, cfg, args.checkpoint).get("dataset_meta"))
    ids = choose_ids(inputs.files if inputs else [], meta["classes"], cfg, args.annotations)
    pictures = Pictures(cfg, meta, args.score_thr)
    predictor = Predictor(model.to(device), cfg, args.batch_size)
    if args.tile:
        predictor = TiledPredictor(predictor, args.tile, args.overlap)
    if inputs is None:
        make_page(predictor, ids, pictures, Path(args.config).stem).launch()
        return 0
    output = Output(args.out, ids, pictures)
    try:
        with tqdm(total=inputs.count(), unit="image") as bar:
            for frame, sample in predictor(inputs.frames(predictor.read)):
                output.add(frame, sample)
                bar.update()
    finally:  # an interrupted run keeps its results
        output.close()
    for name, reason in inputs.skipped.items():
        note(f"skipped {name}: {reason}")
    if not output.images:
        raise UsageError("no input can be read, so nothing is written")
    print(f"{args.out}: {len(output.images)} images, {len(output.records)} results")
    return SKIPPED if inputs.skipped else 0


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together, and an existing folder.

    Raises:
        UsageError: naming them.
    """
    if args.serve and (args.inputs or args.out or args.annotations):
        raise UsageError("--serve takes no INPUT, -o or --annotations: images are dropped on its page")
    if not args.serve and not args.inputs:
        raise UsageError("there is nothing to predict: name images, videos, folders or patterns, or add --serve")
    if not args.serve and not args.out:
        raise UsageError("name a folder for the results: -o FOLDER")
    for option, value in {"--batch-size": args.batch_size, "--tile": args.tile}.items():
        if value is not None and value < 1:
            raise UsageError(f"{option} is {value}; it must be 1 or more")
    if not 0 <= args.score_thr <= 1:
        raise UsageError(f"--score-thr is {args.score_thr}; it must be from 0 to 1")
    if args.out:
        check_folder(args.out)
