"""Finds config files: paths, stock configs of the hosts, and the configs of this package."""

import difflib
import importlib.util
import os
from pathlib import Path

from backbones.config import shipped
from backbones.usage import UsageError

HOSTS = ("mmdet", "mmseg", "mmpretrain")
OURS = "densebackbones"


def config_folder(host: str) -> Path:
    """The folder of an installed host's stock configs.

    Raises:
        UsageError: if the host is not installed.
    """
    spec = importlib.util.find_spec(host)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"{host} is not installed; its stock configs are part of the package")
    return Path(spec.submodule_search_locations[0], ".mim", "configs")


def find_config(name: str) -> Path:
    """The file of a config.

    Args:
        name: A path, ``HOST::FOLDER/FILE.py``, ``densebackbones::FILE.py``, or the file name of a shipped config.

    Raises:
        UsageError: for an unknown host or file; the message lists similar names.
    """
    host, _, inside = name.rpartition("::")
    if not host and Path(name).is_file():
        return Path(name)
    if host and host not in (*HOSTS, OURS):
        raise UsageError(f"{name} names the host {host!r}; allowed are {', '.join((*HOSTS, OURS))}, or give a path")
    if host == OURS or not host:
        try:
            return Path(shipped.config_path(inside))
        except FileNotFoundError as error:
            raise UsageError(f"{error}; stock configs have names like mmdet::retinanet/FILE.py") from error
    folder = config_folder(host)
    if (path := folder / inside).is_file():
        return path
    stock = {file.name: f"{host}::{file.parent.name}/{file.name}" for file in folder.glob("[!_]*/*.py")}
    near = [stock[file] for file in difflib.get_close_matches(path.name, stock, n=3, cutoff=0.5)]
    raise UsageError(f"{host} has no config {inside}" + (f"; similar: {', '.join(near)}" if near else ""))


def base_expression(name: str, folder: Path) -> str:
    """The value of ``_base_`` for a config in ``folder`` whose base is ``name``, as for ``find_config``.

    mmengine does not resolve names of this package, nor the fork's mmengine those of mmseg (its table has upstream's
    distribution name), but it evaluates an expression.
    """
    host, _, inside = name.rpartition("::")
    if host == "mmseg":
        return f'__import__("mmseg").__path__[0] + "/.mim/configs/{inside}"'
    if host in HOSTS:
        return f'"{name}"'
    if host == OURS or not Path(name).is_file():
        return f'__import__("backbones").config_path("{inside}")'
    return f'"{Path(os.path.relpath(name, folder)).as_posix()}"'
