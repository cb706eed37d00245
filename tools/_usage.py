"""How the tools end when something they were given cannot be used, and how they say what they change."""

import argparse
import sys
from collections.abc import Callable


class UsageError(Exception):
    """Something the user gave cannot be used; the message says what, what is allowed and what to do."""


def run(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run a command; a wrong input ends it with a message and exit status 2."""
    try:
        main(args)
    except UsageError as error:
        sys.exit(_fail(error))


def _fail(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def say(message: str) -> None:
    """Tell the user something that changes what the command does."""
    print(f"note: {message}", file=sys.stderr)
