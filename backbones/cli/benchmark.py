"""Measure time and memory of the backbones and write docs/BENCHMARKS.md.

Each section of the page is rewritten as soon as it is measured; sections that are not named stay as they are. Time is
compared within a run only, step by step in turn, as the median of the paired ratios: single times on a shared machine
say little. Memory is exact: the peak of the allocator during a step above its level before it.
"""

import argparse
import datetime
import shlex
from pathlib import Path

import torch

from backbones.benchmark import modern_vit, revcol, revcol_vit, vit
from backbones.benchmark.measure import machine
from backbones.cli._runs import find_device
from backbones.usage import UsageError, command, make_folder

# in the order of the page
SECTIONS = {"revcol": revcol, "revcol-vit": revcol_vit, "vit": vit, "modern-vit": modern_vit}
OPTIONS = ("size", "batch", "repeats", "device", "out")
DEFAULTS = {"device": "cpu", "out": Path("docs")}
INTRODUCTION = """# Benchmarks

After this page you know the price and the gain of the memory modes, and the speed against other implementations.

Time ratios are paired within one run. Memory is exact: the peak of the allocator during a step above its level before
it, on a CPU from `torch.profiler`, on a GPU from `torch.cuda.max_memory_allocated`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--size", type=int, help=f"side of the square images, in pixels ({defaults('size')})")
    parser.add_argument("--batch", type=int, help=f"images per step ({defaults('batch')})")
    parser.add_argument("--repeats", type=int, help=f"timed pairs ({defaults('repeats')})")
    parser.add_argument("--device", default=DEFAULTS["device"], help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=DEFAULTS["out"], help="folder of the page (default: %(default)s)")


def defaults(option: str) -> str:
    """The sections' default values of an option, for its help."""
    return ", ".join(f"{name}: {section.DEFAULTS[option]}" for name, section in SECTIONS.items())


def read_sections(page: Path) -> dict[str, str]:
    """Heading -> text of the page's sections; empty without a page."""
    _, *sections = page.read_text().split("\n## ") if page.exists() else [""]
    return {heading: text.strip() for heading, text in (section.split("\n", 1) for section in sections)}


def main(args: argparse.Namespace) -> None:
    """Measure the named sections, or all; write each as soon as it is measured."""
    if unknown := set(args.sections) - SECTIONS.keys():
        raise UsageError(f"there is no section {sorted(unknown)}; choose from {list(SECTIONS)}")
    for option in ("size", "batch", "repeats"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise UsageError(f"--{option} is {value}; it must be 1 or more")
    device = find_device(args.device)
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device is {args.device}; it must be cpu or cuda, whose memory can be measured")
    make_folder(args.out)
    page = args.out / "BENCHMARKS.md"
    given = {key: value for key, value in vars(args).items() if value is not None}
    options = [f"--{key}={given[key]}" for key in OPTIONS if key in given and given[key] != DEFAULTS.get(key)]
    for name in args.sections or SECTIONS:
        section = SECTIONS[name]
        torch.manual_seed(0)
        try:
            lines = section.measure(argparse.Namespace(**{**section.DEFAULTS, **given}), device)
        except ValueError as error:  # of a backbone, for images of this size
            raise UsageError(error) from error
        line = f"{command('benchmark')} {shlex.join([name, *options])}"
        written = f"Written by `{line}` on {datetime.date.today()}: {machine(device)}."
        if device.type == "cpu":
            written += " On a GPU: not run."
        texts = read_sections(page) | {section.HEADING: "\n".join([written, "", *lines]).strip()}
        headings = [section.HEADING for section in SECTIONS.values() if section.HEADING in texts]
        page.write_text("\n\n".join([INTRODUCTION, *(f"## {h}\n\n{texts[h]}" for h in headings)]) + "\n")
        print(f"wrote {section.HEADING!r} into {page}", flush=True)
