"""The command ``densebackbones VERB ...``, and the scripts in tools/ that run one verb each.

A verb is a module of this package: ``export_weights.py`` is ``densebackbones export-weights``. It has

- a docstring, whose first line is shown in the list of verbs;
- ``add_arguments(parser)``, which adds its arguments to an ``argparse.ArgumentParser``;
- ``main(args)``, which does the work and raises ``UsageError`` for invalid input; it may return an exit status.

A new verb needs no other entry: modules are found by their files, and only the one that runs is imported.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.usage import UsageError

FOLDER = Path(__file__).parent
__all__ = ["UsageError", "main", "parse_args", "run", "verbs"]


def verbs() -> dict[str, str]:
    """Verb -> first line of its module's docstring."""
    found = {}
    for file in sorted(FOLDER.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
        found[file.stem.replace("_", "-")] = docstring.partition("\n")[0]
    return found


def parse_args(verb: str, argv: Sequence[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Read the arguments of a verb.

    Args:
        verb: One of ``verbs``.
        argv: Arguments behind the verb; default: those of the process.
        prog: Command shown in the help.
    """
    module = importlib.import_module(f"{__name__}.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    args = parser.parse_args(argv)
    args.main = module.main
    return args


def run(verb: str, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a verb and return its exit status: 2, with a message, for invalid input.

    The arguments are those of ``parse_args``.
    """
    args = parse_args(verb, argv, prog)
    try:
        return args.main(args) or 0
    except (UsageError, OSError) as error:  # OSError: a file or folder that cannot be read or written; it names it
        print(f"error: {error}", file=sys.stderr)
        return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``densebackbones`` with these arguments, by default those of the process; returns the exit status."""
    from backbones import __version__

    known = verbs()
    width = max(map(len, known))
    listed = "\n".join(f"  {verb:{width}}  {line}" for verb, line in known.items())
    parser = argparse.ArgumentParser(
        "densebackbones",
        usage="%(prog)s VERB ...",
        description=f"Backbones for mmdet, mmsegmentation and mmpretrain.\n\nverbs:\n{listed}",
        epilog="densebackbones VERB --help describes a verb.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("verb", choices=list(known), metavar="VERB", help="one of the verbs above")
    given = list(sys.argv[1:] if argv is None else argv)
    verb = parser.parse_args(given[:1]).verb
    return run(verb, given[1:], prog=f"densebackbones {verb}")
