"""Show a model at work on photographs: its maps, columns and attention on one page.

MODEL is a config, or a backbone of this package, whose first preset is taken unless --arch names another. The first
INPUT may be a checkpoint; the others are images, folders (searched with their subfolders) and patterns in quotes:

    densebackbones look RevCol revcol_tiny_1k.pth photographs/ -o revcol.html
    densebackbones look DeepViT deepvit_s.pth photo.jpg -o deepvit.html --blocks 0 5 10 15
    densebackbones look ceit_flowers.py work_dirs/ceit_flowers/epoch_100.pth flowers/val -o ceit.html

The page is one file and needs no network. It has, where they apply:
    levels       the maps as pictures: principal components and energy
    columns      of RevCol: what each column adds, similarity (linear CKA) of every level with the image and, if the
                 photographs lie in folders of classes, with the labels; training memory over columns
    attention    of the class token, and of any point that you click, of all heads
    similarity   of the attention maps over depth and between heads, as in DeepViT's paper, re-attention on and off
    blocks       the feature map of each block, LayerScale's factors
    classifier   CaiT's class attention; what the class tokens of all layers contribute in CeiT

A transformer alone is shown without its pyramid, which published files lack; --options pyramid=simple shows it, and a
config shows its own levels. Images have the mean and standard deviation of the config, or of the published weights. The
exit status is 0, or 3 if an input could not be read.
"""

import argparse
import inspect
from pathlib import Path
from typing import Any

from backbones.attention_maps import SIMILAR, SIMILAR_HEADS
from backbones.cli import _models, _runs
from backbones.config.pixels import normalisation
from backbones.config.swap import BACKBONES
from backbones.look.page import write_page
from backbones.look.record import Look, columns_of, record
from backbones.look.subject import Photo, Subject, check_size, read_photos, read_pixels, spread
from backbones.predict.inputs import Inputs, find_inputs
from backbones.usage import UsageError, note

WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".npz", ".safetensors")
COMPARED = 64  # photographs at most, of a model with columns
SKIPPED = 3  # exit status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    _models.add_arguments(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="a checkpoint (without it weights are random), then images or folders",
    )
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="PAGE", help="page to write, .html")
    parser.add_argument(
        "--size", type=int, default=640, help="longer side of the images in pixels, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures", type=int, default=2, metavar="N", help="images whose maps are drawn (default: %(default)s)"
    )
    parser.add_argument(
        "--blocks", type=int, nargs="+", metavar="I", help="blocks whose attention is drawn (default: four)"
    )
    for name, default, text in (("--similar", SIMILAR, "blocks"), ("--similar-heads", SIMILAR_HEADS, "heads")):
        parser.add_argument(
            name,
            type=float,
            default=default,
            metavar="COSINE",
            help=f"cosine above which the attention maps of two {text} are similar (default: %(default)s)",
        )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")


def main(args: argparse.Namespace) -> int:
    """Check, show the images to the model, write the page."""
    check_arguments(args)
    args.checkpoint = args.inputs.pop(0) if is_checkpoint(args.inputs[0]) else None
    if not args.inputs:
        raise UsageError(f"there is no image: name images, folders or patterns behind {args.checkpoint}")
    inputs = find_inputs(args.inputs)
    subject = build_subject(args)
    columns = bool(columns_of(subject.backbone))
    photos = find_photos(inputs, args.size, COMPARED if columns else args.pictures)
    shown = [photos[i] for i in spread(len(photos), args.pictures)]
    for photo in shown:
        check_size(subject, photo)
    look = Look(
        subject, photos, [view(subject, photo) for photo in shown], args.blocks, args.similar, args.similar_heads
    )
    check_blocks(look)
    weights = args.checkpoint or "random weights"
    count = f"{len(photos)} photograph{'s' if len(photos) > 1 else ''}"
    write_page(args.out, look, f"{type(subject.backbone).__name__}, {weights}, {count}.")
    print(f"{args.out}: {type(subject.backbone).__name__}, {count}")
    return SKIPPED if inputs.skipped else 0


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse values out of range, and an existing page.

    Raises:
        UsageError: naming them.
    """
    if args.out.suffix != ".html":
        raise UsageError(f"-o {args.out}: the name of the page must end in .html")
    if args.out.exists():
        raise UsageError(f"-o {args.out} exists; name another file, or remove it first")
    for name in ("size", "pictures"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; it must be 1 or more")
    for name in ("similar", "similar_heads"):
        if not -1 <= getattr(args, name) <= 1:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is {getattr(args, name)}; it is a cosine, from -1 to 1")


def is_checkpoint(name: str) -> bool:
    """Whether an input is a checkpoint, by its suffix, or a URL."""
    return "://" in name or name.lower().endswith(WEIGHTS)


def build_subject(args: argparse.Namespace) -> Subject:
    """The model, in evaluation mode, frozen, and on its device.

    Raises:
        UsageError: for a model without a backbone, and as ``_models.build``.
    """
    if has_pyramid(args.model):
        args.options = {"pyramid": None, **args.options}  # published files have none
    built = _models.build(args)
    alone = built.cfg is None
    backbone: Any = built.model if alone else getattr(built.model, "backbone", None)
    if backbone is None:
        raise UsageError(f"{args.model} has no model.backbone; give the config of a whole model")
    model = built.model.to(_runs.find_device(args.device)).requires_grad_(False)
    model.eval()  # returns None in some hosts
    arch = built.settings.get("arch") if alone else None
    title = f"{args.model} {arch}" if isinstance(arch, str) else Path(args.model.rpartition("::")[2]).stem
    return Subject(title, model, backbone, built.settings, *normalisation(backbone, built.cfg))


def has_pyramid(name: str) -> bool:
    """Whether a backbone of this name has learnt layers between its transformer and its levels by default."""
    parameters = inspect.signature(BACKBONES[name]).parameters if name in BACKBONES else {}
    return "pyramid" in parameters and parameters["pyramid"].default in ("simple", "levels")


def find_photos(inputs: Inputs, size: int, most: int) -> list[Photo]:
    """The readable images, at most ``most`` of them, evenly spread over the inputs.

    Raises:
        UsageError: if there are none.
    """
    for video in [file for file in inputs.files if file.is_video]:
        inputs.skipped[str(video.path)] = "a video; give some of its frames"
        inputs.files.remove(video)
    if len(inputs.files) > most:
        inputs.files = [inputs.files[i] for i in spread(len(inputs.files), most)]
    photos = read_photos(inputs.frames(read_pixels), size)
    for name, reason in inputs.skipped.items():
        note(f"skipped {name}: {reason}")
    if not photos:
        raise UsageError("no input can be read as an image, so nothing is written")
    return photos


def view(subject: Subject, photo: Photo) -> Any:
    """The forward of a photograph.

    Raises:
        UsageError: for a backbone that does not take it.
    """
    try:
        return record(subject, photo)
    except Exception as error:  # classes of the hosts raise anything
        height, width = photo.pixels.shape[:2]
        name = type(subject.backbone).__name__
        raise UsageError(f"{name} does not take {photo.path} of {width} x {height} pixels: {error}") from error


def check_blocks(look: Look) -> None:
    """Refuse blocks that do not exist.

    Raises:
        UsageError: naming them.
    """
    count = len(look.views[0].blocks)
    wrong = [i for i in look.blocks or [] if not -count <= i < count]
    if wrong:
        has = f"it has {count} that attend globally, 0 to {count - 1}" if count else "it has none that attend globally"
        raise UsageError(f"--blocks names {wrong[0]}, which {look.subject.title} does not have: {has}")
