#!/usr/bin/env python
"""Measures backbones and writes what it finds, section by section, into docs/BENCHMARKS.md with its pictures.

Sections that are not named on the command line stay as they are. Time is compared inside one run only, step by step in
turn, as the median of the paired ratios; single times of a shared machine say little. Memory is exact: the highest
level of the allocator during a step above its level before it.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from pathlib import Path

import _bench_revcol
import _bench_vit
import torch
from _measure import machine

SECTIONS = {"revcol": _bench_revcol, "vit": _bench_vit}
INTRODUCTION = """# Benchmarks

Time ratios are paired inside one run. Memory is exact: the highest level of the allocator during a step above its level
before it, on a CPU from `torch.profiler`, on a GPU from `torch.cuda.max_memory_allocated`."""


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--size", type=int, help=f"side of the square images, in pixels ({defaults('size')})")
    parser.add_argument("--batch", type=int, help=f"images per step ({defaults('batch')})")
    parser.add_argument("--repeats", type=int, help=f"timed pairs ({defaults('repeats')})")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs", help="folder to write into")
    args = parser.parse_args()
    if unknown := set(args.sections) - SECTIONS.keys():
        parser.error(f"there is no section {sorted(unknown)}; choose from {list(SECTIONS)}")
    return args


def defaults(option: str) -> str:
    """What the sections take for an option that is not given."""
    return ", ".join(f"{name}: {section.DEFAULTS[option]}" for name, section in SECTIONS.items())


def read_sections(page: Path) -> dict[str, str]:
    """Heading and text of each section of the page, if there is one."""
    _, *sections = page.read_text().split("\n## ") if page.exists() else [""]
    return {heading: text.strip() for heading, text in (section.split("\n", 1) for section in sections)}


def main() -> None:
    """Measure the wanted sections; each is written as soon as it is there."""
    args = parse_args()
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    page = args.out / "BENCHMARKS.md"
    options = [arg for arg in sys.argv[1:] if arg not in SECTIONS]
    given = {key: value for key, value in vars(args).items() if value is not None}
    for name in args.sections or SECTIONS:
        section = SECTIONS[name]
        torch.manual_seed(0)
        lines = section.measure(argparse.Namespace(**{**section.DEFAULTS, **given}), device)
        command = shlex.join(["python", "tools/benchmark.py", name, *options])
        written = f"Written by `{command}` on {datetime.date.today()}: {machine(device)}."
        if device.type == "cpu":
            written += " On a GPU: not run."
        sections = read_sections(page) | {section.HEADING: "\n".join([written, "", *lines]).strip()}
        page.write_text("\n\n".join([INTRODUCTION, *(f"## {h}\n\n{text}" for h, text in sections.items())]) + "\n")
        print(f"wrote {section.HEADING!r} into {page}", flush=True)


if __name__ == "__main__":
    main()
