"""The configs that this package ships. Imports the standard library only."""

import difflib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def config_folder() -> Path:
    """The folder of the shipped configs: in ``.mim`` of an installed package, beside the package in a checkout."""
    installed = PACKAGE / ".mim" / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def config_path(name: str) -> str:
    """The path of a shipped config, for ``Config.fromfile`` or as the base of another config.

    mmengine resolves ``package::file`` for the packages that it lists by name only, but evaluates expressions::

        _base_ = __import__("backbones").config_path("revcol_maskrcnn_coco.py")

    Args:
        name: File name, such as ``revcol_maskrcnn_coco.py``.

    Raises:
        FileNotFoundError: for an unknown name; the message lists similar ones.
    """
    folder = config_folder()
    path = folder / name
    if path.is_file():
        return str(path)
    near = difflib.get_close_matches(name, [file.name for file in folder.glob("*.py")], n=3, cutoff=0.5)
    raise FileNotFoundError(
        f"there is no config {name} in {folder}" + (f"; similar: {', '.join(near)}" if near else "")
    )
