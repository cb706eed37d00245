"""Writes changes to a config as a config file, and as a diff."""

import textwrap
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from backbones.config.swap import Change

LINE = 110  # characters of a written config


def delta(cfg: Config, changes: Sequence[Change]) -> dict[str, Any]:
    """The changes as nested dicts, to be merged into ``cfg`` by mmengine.

    mmengine cannot merge lists, so a list with a change in it is copied as a whole.
    """
    tree: dict[str, Any] = {}
    for change in changes:
        node, stock, parts = tree, cfg.to_dict(), change.key.split(".")
        for part in parts[:-1]:
            inside: Any = stock[int(part)] if isinstance(stock, list) else (stock or {}).get(part)
            if isinstance(node, list):
                node = node[int(part)]
            else:
                node = node.setdefault(part, inside if isinstance(inside, list) else {})
            stock = inside
        node[parts[-1]] = change.new
    return tree


def render(value: Any, indent: int = 0, used: int = 0) -> str:
    """A value of a config as Python, on one line if it fits; ``Config.pretty_text`` would give each key a line.

    Args:
        value: Dicts, lists and plain values.
        indent: Indentation level of its first line.
        used: Characters before and behind it on that line.
    """
    if isinstance(value, dict) and all(str(key).isidentifier() for key in value):
        items = [(f"{key}=", child) for key, child in value.items()]
        start, end = "dict(", ")"
    elif isinstance(value, dict):
        items, start, end = [(f"{key!r}: ", child) for key, child in value.items()], "{", "}"
    elif isinstance(value, (list, tuple)):
        items = [("", child) for child in value]
        start, end = ("[", "]") if isinstance(value, list) else ("(", ",)" if len(value) == 1 else ")")
    else:
        text = repr(value)
        return f'"{text[1:-1]}"' if text.startswith("'") and '"' not in text else text
    line = start + ", ".join(key + render(child, 0, -(10**9)) for key, child in items) + end
    if used + 4 * indent + len(line) <= LINE:
        return line
    pad = "    " * (indent + 1)
    rows = [f"{pad}{key}{render(child, indent + 1, len(key) + 1)},\n" for key, child in items]
    return f"{start}\n{''.join(rows)}{'    ' * indent}{end[-1]}"


def diff(changes: Sequence[Change]) -> str:
    """The changes with their reasons below them; long old values are cut."""
    lines = []
    for change in changes:
        if change.old is not None:
            lines.append(textwrap.shorten(f"- {change.key} = {_one_line(change.old)}", LINE, placeholder=" ..."))
        lines += [f"+ {change.key} = {_one_line(change.new)}", f"    {change.why}"]
    return "\n".join(lines)


def _one_line(value: Any) -> str:
    value = value.to_dict() if isinstance(value, ConfigDict) else value
    if isinstance(value, dict):
        value = {key: child for key, child in value.items() if key != "_delete_"}
    return render(value, 0, -(10**9))
