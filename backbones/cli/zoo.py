"""List the model zoo, or check its figures.

densebackbones zoo list 'revcol*'
densebackbones zoo check revcol_maskrcnn_coco
"""

import argparse

from backbones import zoo
from backbones.cli import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("action", choices=["list", "check"], help="print the table, or build each config and compare")
    parser.add_argument("pattern", nargs="?", default="*", help="part of the name, or a shell pattern; default: all")


def main(args: argparse.Namespace) -> None:
    """Print the table, or compare each row with its config.

    Raises:
        UsageError: for a pattern that matches no model, or a wrong figure.
    """
    found = zoo.rows(args.pattern)
    if not found:
        raise UsageError(f"no model matches {args.pattern!r}; densebackbones zoo list prints all names")
    if args.action == "list":
        print(table(found))
        return
    wrong = []
    for model in found:
        differences = zoo.check(model)
        print(f"{model['Name']}: {'; '.join(differences) or 'ok'}", flush=True)
        wrong += differences
    if wrong:
        raise UsageError(f"{len(wrong)} wrong figures in configs/metafile.yml:\n" + "\n".join(wrong))


def table(models: list[dict]) -> str:
    """One line a model."""
    lines = [("model", "parameters (M)", "backbone GMACs", "published", "ours")]
    for model in models:
        data = model["Metadata"]
        published, ours = map(metrics, zoo.results(model))
        figures = zoo.shown(data.get("Parameters"), 1e6), zoo.shown(data.get("FLOPs"), 1e9)
        lines.append((model["Name"], *figures, published, ours))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def metrics(values: dict[str, float]) -> str:
    """Metrics as ``name value, name value``."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "-"
