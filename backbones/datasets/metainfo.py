"""Names and colours of the classes that a model tells apart."""

import colorsys
from pathlib import Path
from typing import Any

from mmengine.config import Config

from backbones.datasets.find import dataset_class, inner_datasets


def palette(count: int) -> list[tuple[int, int, int]]:
    """RGB colours of classes, their hues far apart."""
    hues = [(i * 0.618034) % 1 for i in range(count)]  # the golden ratio
    return [tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.75, 0.95)) for hue in hues]  # type: ignore[misc]


def class_meta(cfg: Config, trained: dict[str, Any] | None) -> dict[str, Any]:
    """Names and colours of the classes: the checkpoint's, otherwise those that the config states.

    Args:
        cfg: The config.
        trained: ``meta.dataset_meta`` of the checkpoint.

    Returns:
        ``classes`` (names, or numbers if no names are known) and ``palette`` (RGB of each class).
    """
    dataset = next(inner_datasets(test_loader(cfg)), {})
    stated = {**getattr(dataset_class(dataset), "METAINFO", {}), **(dataset.get("metainfo") or {})}
    if isinstance(file := stated.get("classes"), str):  # a name a line
        stated["classes"] = Path(file).read_text().splitlines() if Path(file).is_file() else ()
    known = {**stated, **(trained or {})}
    classes = tuple(known.get("classes") or map(str, range(_class_number(cfg.model))))
    colours = known.get("palette")
    if not isinstance(colours, (list, tuple)) or len(colours) < len(classes):
        colours = palette(len(classes))
    return dict(classes=classes, palette=[tuple(colour) for colour in colours])


def test_loader(cfg: Config) -> dict[str, Any]:
    """The data loader for testing, or else for validation; empty without both."""
    return cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}


def _class_number(settings: Any) -> int:
    """The largest ``num_classes`` in the config of a model."""
    values = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else []
    return max([settings.get("num_classes", 0) if isinstance(settings, dict) else 0, *map(_class_number, values)])
