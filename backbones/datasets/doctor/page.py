"""A page about the data sets of a config: samples, statistics, faults. One file that needs no network."""

import html
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from mmengine.config import Config
from mmengine.fileio import list_from_file
from PIL import Image, ImageOps
from pycocotools import mask as mask_utils

from backbones.datasets.classes import labels_file
from backbones.datasets.doctor import annotations, masks, statistics
from backbones.datasets.doctor.examine import Source, folder_of, image_paths, sources
from backbones.datasets.doctor.faults import KINDS, Fault, count
from backbones.datasets.doctor.images import in_parallel, read_header
from backbones.datasets.find import LOOPS, classes_file_of, reads_coco
from backbones.pictures.html import BLUE, ORANGE, chart, grid, write_html

SAMPLES = 12
MAX_CLASSES = 30  # bars of a histogram
MAX_IMAGES = 2000  # whose sizes, or masks, are read
CASES = 20  # of a kind of fault
STYLE = """
.charts figure:first-child { grid-row: span 2; }
td:last-child { overflow-wrap: anywhere; }
.refused { color: #b00020; font-weight: 600; } .repaired { color: #8a5a00; } .noted { color: #555; }
ul { margin: .2rem 0 0; padding-left: 1.1rem; color: #555; }
"""


def write_page(out: Path, cfg: Config, faults: list[Fault]) -> None:
    """Write the page.

    Args:
        out: File to write.
        cfg: The config whose data sets have been examined.
        faults: Their faults; files that cannot be read have no samples.
    """
    unreadable = {fault.file for fault in faults if fault.kind in ("not-json", "missing-key", "invalid-entry")}
    loops = tuple(loop for loop in LOOPS if cfg.get(f"{loop}_dataloader"))
    parts = [_fault_table(faults)]
    for path, source in sources(cfg, loops).items():
        if path not in unreadable:
            used = ", ".join(loop for loop in LOOPS if loop in source.loops)
            parts += [f"<h2>{html.escape(path)} ({used})</h2>", *_section(cfg, path, source)]
    write_html(out, f"Data of {os.path.basename(cfg.filename or 'a config')}", parts, STYLE)


def _fault_table(faults: list[Fault]) -> str:
    if not faults:
        return "<h2>Faults</h2><p>No faults.</p>"
    rows = []
    for (file, kind), group in count(faults).items():
        cases = "".join(f"<li>{html.escape(fault.text)}</li>" for fault in group[:CASES])
        more = f"<li>and {len(group) - CASES} more</li>" if len(group) > CASES else ""
        rows.append(
            f'<tr><td class="{group[0].outcome}">{group[0].outcome}</td><td>{len(group)}</td>'
            f"<td>{kind}: {KINDS[kind].rule}<br>{html.escape(file)}<ul>{cases}{more}</ul></td></tr>"
        )
    head = "<tr><th>outcome</th><th>count</th><th>fault, rule, file and cases</th></tr>"
    return f"<h2>Faults</h2><table>{head}{''.join(rows)}</table>"


def _section(cfg: Config, path: str, source: Source) -> Iterator[str]:
    dataset = source.dataset
    if reads_coco(dataset):
        yield from _coco_section(cfg, path, source)
        return
    paths = _some(image_paths(dataset, {}), MAX_IMAGES)
    if classes_file := classes_file_of(dataset):
        names = list_from_file(classes_file)
        shown = [
            (file, _labelled_pixels(dataset, Path(file), names), Path(file).name) for file in _some(paths, SAMPLES)
        ]
        counts = _pixels_per_class(dataset, paths, names)
        classes = _bars(counts, "pixels of each class, %", names)
    else:
        labels = _labels(dataset, paths)
        shown = [(file, None, f"{labels[file]}: {Path(file).name}") for file in _some(paths, SAMPLES)]
        classes = _bars(Counter(labels.values()), "images of each class")
    headers = [header for header in in_parallel(read_header, paths) if not header.error]
    yield grid([_sample(*each) for each in shown])
    yield grid([classes, *_size_charts(cfg, [header.read_size for header in headers])], "charts")


def _coco_section(cfg: Config, path: str, source: Source) -> Iterator[str]:
    content, faults = annotations.read(path, source.loops != {"test"})
    if faults:
        yield "<p>See its faults.</p>"
        return
    bad = annotations.find_faults(content, path, source.masks, source.loops != {"test"})
    content = annotations.repair(content, bad)
    names = {category["id"]: category["name"] for category in content["categories"]}
    by_image: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    sized = {image["id"]: image for image in content["images"] if image.get("width") and image.get("height")}
    files = dict(zip(by_image, image_paths(source.dataset, content), strict=True))
    readable = _some([id_ for id_ in by_image if by_image[id_] and os.path.exists(files[id_])], SAMPLES)
    yield f"<p>{len(by_image)} images, {len(content['annotations'])} annotations without faults.</p>"
    yield grid([_sample(files[id_], (by_image[id_], names), Path(files[id_]).name) for id_ in readable])
    objects = [a for a in content["annotations"] if a["image_id"] in sized]
    boxes = np.array([a["bbox"] for a in objects], float).reshape(-1, 4)
    sizes = np.array([(sized[a["image_id"]]["width"], sized[a["image_id"]]["height"]) for a in objects], float)
    charts = [
        _bars(
            Counter(names[a["category_id"]] for a in content["annotations"]),
            "boxes of each class",
            list(names.values()),
        ),
        _histogram(np.sqrt(boxes[:, 2] * boxes[:, 3]), "size of boxes: square root of the area, pixels", log=True),
        _histogram(np.array([len(each) for each in by_image.values()]), "boxes in an image"),
        *_size_charts(cfg, [(image["width"], image["height"]) for image in sized.values()]),
    ]
    if coverage := statistics.anchor_coverage(cfg, boxes, sizes.reshape(-1, 2)):
        charts.append(_coverage_chart(*coverage))
    yield grid(charts, "charts")
    if not coverage:
        yield "<p>The config's heads have no anchors to compare the boxes with.</p>"


def _some(items: list, number: int) -> list:
    """At most ``number`` of the items, evenly spaced."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(number, len(items)), dtype=int)]


def _labels(dataset: dict, paths: list[str]) -> dict[str, str]:
    """Path -> class of a classification data set."""
    folder = folder_of(dataset)
    if file := labels_file(dataset):
        pairs = [line.rpartition(" ") for line in list_from_file(file) if line.strip()]
        numbers = {os.path.join(folder, name): f"class {label}" for name, _, label in pairs}
        return {path: numbers[path] for path in paths}
    return {path: Path(os.path.relpath(path, folder)).parts[0] for path in paths}


def _labelled_pixels(dataset: dict, image: Path, names: list[str]) -> np.ndarray | None:
    """A mask in colours ``(height, width, 4)``, clear where a pixel has no class."""
    path = masks.mask_path(dataset, image)
    if not path.is_file():
        return None
    labels = np.asarray(Image.open(path))
    if labels.ndim != 2:
        return None
    colors = _color(labels.astype(float) / max(len(names), 1))
    colors[..., 3] = 0.55 * (labels != dataset.get("ignore_index", 255))
    return colors


def _pixels_per_class(dataset: dict, paths: list[str], names: list[str]) -> Counter[str]:
    found = [masks.mask_path(dataset, Path(path)) for path in paths]
    first = int(bool(dataset.get("reduce_zero_label")))
    number = first + len(names)
    counts = np.zeros(number, int)
    for labels in in_parallel(lambda path: np.asarray(Image.open(path)), [path for path in found if path.is_file()]):
        counts += np.bincount(labels.ravel(), minlength=number)[:number]
    share = counts[first:] * 100 / max(counts[first:].sum(), 1)
    return Counter(dict(zip(names, share.tolist(), strict=True)))


def _color(share: Any) -> Any:
    """A colour for a class, by its share of all classes; neighbours differ."""
    return colormaps["hsv"](np.asarray(share) * 7.3 % 1)


def _sample(path: str, truth: Any, caption: str) -> str:
    """An image with its truth: (annotations, names of the categories), a mask in colours, or None."""
    try:
        with Image.open(path) as file:
            image = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    except OSError as error:
        return f"<figure><figcaption>{html.escape(f'{caption}: {error}')}</figcaption></figure>"
    height, width = image.shape[:2]
    figure = Figure(figsize=(4, 4 * height / width))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(image, aspect="auto")
    if isinstance(truth, np.ndarray):
        axis.imshow(truth, aspect="auto", extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
    elif truth:
        _draw_objects(axis, *truth)
        caption = f"{caption}: {', '.join(sorted({truth[1][a['category_id']] for a in truth[0]}))}"
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.axis("off")
    return chart(figure, caption, "jpeg")


def _draw_objects(axis: Any, objects: list[dict], names: dict[Any, str]) -> None:
    order = {id_: index / len(names) for index, id_ in enumerate(names)}
    for annotation in objects:
        color = _color(order[annotation["category_id"]])
        x, y, w, h = annotation["bbox"]
        axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=1.5))
        if len(objects) <= 15:
            name = names[annotation["category_id"]]
            axis.text(max(x, 0), max(y, 0), name, color="white", fontsize=7, va="top", clip_on=True,
                      bbox=dict(facecolor=color, alpha=0.8, pad=1, linewidth=0))  # fmt: skip
        mask = annotation.get("segmentation")
        if isinstance(mask, list):
            for points in mask:
                axis.add_patch(Polygon(np.reshape(points, (-1, 2)), facecolor=(*color[:3], 0.4), edgecolor=color))
        elif mask:
            rle = mask_utils.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask
            axis.imshow(np.asarray(mask_utils.decode(rle))[..., None] * np.array([*color[:3], 0.4]), aspect="auto")


def _bars(counts: Counter[str], caption: str, classes: Sequence[str] = ()) -> str:
    """Numbers of each class, largest first; in the colours of the samples if these have any."""
    order = {name: index for index, name in enumerate(classes)}
    shown = counts.most_common(MAX_CLASSES)
    if len(counts) > len(shown):
        caption = f"{caption}; the first {len(shown)} of {len(counts)}"
    figure = Figure(figsize=(5, max(1.8, 0.6 + 0.2 * len(shown))), layout="constrained")
    axis = figure.add_subplot()
    colors = [_color(order[name] / len(order)) for name, _ in shown] if order else BLUE
    bars = axis.barh([name for name, _ in shown], [number for _, number in shown], color=colors)
    axis.bar_label(bars, fmt="%.3g" if any(isinstance(n, float) for _, n in shown) else "%d", fontsize=7, padding=2)
    axis.invert_yaxis()
    axis.margins(x=0.12, y=0.01)
    axis.tick_params(labelsize=8)
    return chart(figure, caption)


def _histogram(values: np.ndarray, caption: str, log: bool = False) -> str:
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.add_subplot()
    if len(values):
        low, high = max(float(values.min()), 1e-3 if log else 0.0), float(values.max())
        bins: Any = np.geomspace(low, max(high, low * 1.01), 31) if log else min(30, int(high - low) + 1)
        axis.hist(values, bins=bins, color=BLUE)
        caption = f"{caption}; median {np.median(values):.3g}, from {values.min():.3g} to {values.max():.3g}"
    if log:
        axis.set_xscale("log")
    return chart(figure, caption)


def _size_charts(cfg: Config, sizes: list[tuple[int, int]]) -> list[str]:
    """Sizes of the images before and after the config's resize."""
    if not sizes:
        return []
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.add_subplot()
    axis.scatter(*np.array(sizes).T, s=12, alpha=0.5, color=BLUE, label="images")
    caption = "width and height of the images, pixels"
    if resize := statistics.resize_of(cfg):
        new = np.array([statistics.resized(size, resize) for size in sizes])
        axis.scatter(*new.T, s=12, alpha=0.5, color=ORANGE, label="after the config's resize")
        factors = new[:, 0] / np.array(sizes)[:, 0]
        caption += (
            f"; the config's resize to {resize[0][0]} x {resize[0][1]} scales the width by {factors.min():.3g} to "
            f"{factors.max():.3g}, in the median {np.median(factors):.3g}"
        )
    axis.set(xlabel="width", ylabel="height", xlim=(0, None), ylim=(0, None))
    axis.legend(fontsize=8)
    return [chart(figure, caption)]


def _coverage_chart(lengths: np.ndarray, ious: np.ndarray) -> str:
    """Share of the boxes with an anchor near enough, over their size."""
    edges = np.geomspace(max(lengths.min(), 1e-3), lengths.max() * 1.001, 11)
    place = np.digitize(lengths, edges) - 1
    shares = [float(np.mean(ious[place == i] >= statistics.MIN_IOU)) if (place == i).any() else 0 for i in range(10)]
    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.add_subplot()
    axis.bar(edges[:-1], shares, np.diff(edges), align="edge", color=BLUE, edgecolor="white")
    axis.set(xscale="log", ylim=(0, 1.02), xlabel="square root of the area after the resize, pixels", ylabel="share")
    covered = np.mean(ious >= statistics.MIN_IOU)
    return chart(figure, f"share of boxes with an anchor of IoU {statistics.MIN_IOU} or more: {covered:.1%} of all")
