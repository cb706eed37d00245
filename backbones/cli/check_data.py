"""Find the faults of a config's data: annotations, images, masks, classes.

Examples:
    densebackbones check-data densebackbones::revcol_maskrcnn_coco.py --data-root data/coco
    densebackbones check-data CONFIG --full --html data.html

Annotation files are read, images looked up, the sizes of up to 2000 images compared with the annotation file's, and the
first masks of a segmentation data set read. This part runs before every training, too. --full decodes every image and
mask, which also finds cut files, unusual colours, images that are turned by their EXIF tag, and images that are both in
the training and the validation set.

Each line of the table is a kind of fault in a file:
    refused   no training starts: mend the files
    repaired  training reads a repaired copy of the annotation file, WORK_DIR/repaired/NAME.json; the log says how often
              the stated rule was applied, and the file itself stays as it is
    noted     nothing changes

The exit status is 0 without faults or if all can be repaired, 1 if a training would be refused, 2 for wrong arguments
or files that do not exist.
"""

import argparse
from pathlib import Path

from backbones.cli import _runs
from backbones.datasets.check import check_files
from backbones.datasets.classes import check_classes
from backbones.datasets.doctor.examine import examine
from backbones.datasets.doctor.faults import KINDS, Fault, count
from backbones.datasets.find import LOOPS, all_datasets
from backbones.usage import UsageError, make_folder

CASES = 3  # shown of each kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    _runs.add_config_arguments(parser)
    parser.set_defaults(**_runs.DEFAULTS)
    parser.add_argument("--full", action="store_true", help="decode every image and mask")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="OUT",
        help="write a page with samples, statistics and the faults; needs no network",
    )


def main(args: argparse.Namespace) -> int:
    """Examine, print the table, and write the page if asked for."""
    if args.html and args.html.exists():
        raise UsageError(f"--html {args.html} exists; name another file, or remove it first")
    cfg = _runs.load_config(args)
    loops = tuple(loop for loop in LOOPS if cfg.get(f"{loop}_dataloader"))
    if not loops:
        raise UsageError(f"{args.config} has no train_dataloader, val_dataloader or test_dataloader, so no data")
    check_files(cfg, loops)
    if args.html:
        make_folder(args.html.parent)
    findings = examine(cfg, loops, args.full)
    if not any(fault.kind in ("not-json", "missing-key", "invalid-entry") for fault in findings.faults):
        try:
            check_classes(cfg, all_datasets(cfg, loops))
        except UsageError as error:
            findings.faults.append(Fault("classes", args.config, str(error)))
    print(table(findings.faults))
    if args.html:
        from backbones.datasets.doctor.page import write_page

        write_page(args.html, cfg, findings.faults)
        print(f"{args.html}: samples, statistics and faults")
    return 1 if findings.of("refused") else 0


def table(faults: list[Fault]) -> str:
    """A block for each file and kind of fault: outcome, count, kind, file, rule and the first cases."""
    blocks = []
    for (file, kind), group in count(faults).items():
        blocks.append(f"{group[0].outcome:9}{len(group):>7}  {kind:20} {file}\n{'':18}{KINDS[kind].rule}")
        blocks += [f"{'':18}- {fault.text}" for fault in group[:CASES]]
        if len(group) > CASES:
            blocks.append(f"{'':18}- and {len(group) - CASES} more")
    return "\n".join(blocks) or "no faults"
