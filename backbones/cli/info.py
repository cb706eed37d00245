"""Show a model's parameters, multiply-accumulates, levels and training memory before anything is trained.

MODEL is a config, or a backbone of this package, whose first preset is taken unless --arch names another:

    densebackbones info revcol_maskrcnn_coco.py
    densebackbones info mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
    densebackbones info RevCol --arch base --size 800 1333 --batch 2

Parameters and multiply-accumulates (MACs) are those of stem, backbone, neck and heads, attention included. A head that
reads more than the maps of one image, such as the proposals of a detector, has parameters only, with the reason.
Images are padded as the data preprocessor of the config pads a batch: to 1344 x 800 pixels from 1333 x 800 in mmdet.

The memory is that of a training step in float32: the backbone's activations at the peak of forward and backward, in
every memory mode, and weights, gradients and AdamW's state of the whole model. The activations of neck and heads come
on top. The step runs on tensors without data, whose allocations are added up, so that nothing is computed; buffers
inside a kernel, such as cuDNN's workspaces, are not seen. Small models are measured as well, by the allocator of this
machine. The total is compared with the free memory of the GPU, or of the RAM where there is none. With --shard it is
that of one process of a divided training.
"""

import argparse

from backbones.config.swap import BACKBONES
from backbones.info import memory
from backbones.info.model import Part, backbone_parts, count_parameters, levels, other_parts
from backbones.info.subject import BATCH, SIZE, Subject, read_backbone, read_model
from backbones.usage import UsageError

GIB = 2**30
MEASURED = {"cpu": 10e9, "cuda": 1e12}  # most MACs of a forward that is measured, which takes seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("model", metavar="MODEL", help=f"a config, or a backbone: {', '.join(BACKBONES)}")
    parser.add_argument("--arch", help="preset of a backbone (default: its first)")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help=f"height and width of the images in pixels (default: the config's, or {SIZE[0]} {SIZE[1]})",
    )
    parser.add_argument("--batch", type=int, help=f"images a step (default: the config's, or {BATCH})")
    parser.add_argument(
        "--shard",
        type=int,
        metavar="N",
        help="the memory of one of N processes that train --shard divides the model over",
    )


def main(args: argparse.Namespace) -> None:
    """Print the parts, the levels and the memory.

    Raises:
        UsageError: for an unknown model or preset, or a size that the backbone does not take.
    """
    if min(args.size or [1]) < 1:
        raise UsageError(f"--size is {args.size[0]} {args.size[1]}; give height and width in pixels, such as 800 1333")
    if args.batch is not None and args.batch < 1:
        raise UsageError(f"--batch is {args.batch}; give a number of images, at least 1")
    if args.shard is not None and args.shard < 1:
        raise UsageError(f"--shard is {args.shard}; give a number of processes, at least 1")
    if args.model in BACKBONES:
        subject = read_backbone(args.model, args.arch)
    elif args.arch:
        raise UsageError(f"--arch is for a backbone alone; {args.model} is a config, which states its own")
    else:
        subject = read_model(args.model)
    height, width = args.size or subject.size
    size = subject.padded((height, width))
    try:
        parts, output = backbone_parts(subject.backbone, size)
        macs = parts[-1].macs or 0
        if subject.model is not subject.backbone:
            parts += other_parts(subject.model, output, size)
            parts.append(Part("whole model", count_parameters(subject.model), None))
    except Exception as error:  # classes of the hosts raise anything
        raise UsageError(f"{subject.title} does not take images of {size[1]} x {size[0]} pixels: {error}") from error
    print(aligned([("part", "parameters (M)", "GMACs an image"), *map(part_row, parts)]), end="\n\n")
    maps = levels(subject.backbone, output, size)
    print(aligned([("stride", "channels", "height x width"), *(level_row(*level) for level in maps)]), end="\n\n")
    print(memory_report(subject, (args.batch or subject.batch, 3, *size), macs, args.shard))


def part_row(part: Part) -> tuple[str, ...]:
    """Name, parameters in millions and MACs in billions, or the reason why these are not counted."""
    if part.macs is not None:
        counted = f"{part.macs / 1e9:.2f}"
    else:
        counted = f"MACs: not counted, {part.reason}" if part.reason else ""
    return part.name, f"{part.parameters / 1e6:.2f}", counted


def level_row(stride: int | None, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Stride, channels and size of a map; tokens have no stride."""
    if stride is None:
        return "-", f"{shape[-1]}", " x ".join(map(str, shape[:-1])) + " tokens"
    return f"{stride}", f"{shape[0]}", f"{shape[1]} x {shape[2]}"


def memory_report(subject: Subject, shape: tuple[int, ...], macs: int, processes: int | None = None) -> str:
    """The memory of each mode against the free memory: one line, then a table.

    Args:
        subject: The model.
        shape: Of the images of a step.
        macs: Multiply-accumulates of the backbone for one image.
        processes: Number of processes that the model is divided over, or None.
    """
    device, card, free = memory.free_memory()
    state = memory.state_bytes(subject.model) // (processes or 1)
    try:
        counted = memory.count_step(subject.settings, shape, device)
    except Exception as error:  # classes of the hosts raise anything
        reason = str(error).partition("\n")[0]
        return f"memory: not counted, the backbone does not run on tensors without data ({reason})"
    measured: dict[str, int] = {}
    if not processes and macs * shape[0] <= MEASURED[device.type] and state + max(counted.values()) < free:
        measured = memory.measure_step(subject.settings, shape, device)
    total = {mode: size + state for mode, size in counted.items()}
    if processes:
        total = memory.divided_bytes(subject.model, counted, processes)
    listed = ", ".join(f"{mode} {gib(size)} GiB" for mode, size in total.items())
    rows = [("GiB", "activations", "measured", "total", f"{gib(free)} free ({card})")]
    for mode, size in counted.items():
        fits = "fits" if total[mode] < free else "does not fit"
        rows.append((mode, gib(size), gib(measured[mode]) if measured else "-", gib(total[mode]), fits))
    return "\n".join(
        [
            f"{subject.title}, {shape[3]} x {shape[2]}, batch {shape[0]}: {listed}",
            f"of which weights, gradients and AdamW's state take {gib(state)} GiB"
            + (f" in each of {processes} processes; parameters are gathered beside" if processes else ""),
            "",
            aligned(rows),
        ]
    )


def gib(size: int) -> str:
    """A size in GiB."""
    return f"{size / GIB:.2f}"


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows as columns of text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
