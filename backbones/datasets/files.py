"""Writes files that other processes may read."""

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write a file that is never seen half-written; processes of a distributed run write the same one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(file)
