"""A generated instance-segmentation data set in the layout of COCO 2017.

Textured shapes on textured backgrounds. Shapes overlap, and a mask covers the visible part: a list of polygons, or run
lengths if the mask has a hole. As in COCO, a crowd (``iscrowd=1``) is one run-length mask over many small objects, and
some images hold no object. The same arguments and library versions give the same bytes.
"""

import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from tqdm import trange

FINE = 4  # shapes are drawn on a grid this many times finer than the image: soft edges, exact polygons
MIN_VISIBLE = 0.6  # a new shape leaves at least this share of each earlier one visible
MIN_SIZE = 64  # smaller images have no room for shapes of several sizes


def _contour(radii: list[float], num_points: int) -> np.ndarray:
    """Closed contour ``(num_points, 2)`` around the origin, whose points take the radii in turn."""
    angle = (np.arange(num_points) + 0.5) * (2 * np.pi / num_points)  # the half step puts a square on its side
    return np.resize(radii, num_points)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


SHAPES = {  # contours of a shape of radius 1; a second one is its hole
    "disc": [_contour([1], 64)],
    "rectangle": [_contour([1], 4)],
    "triangle": [_contour([1], 3)],
    "star": [_contour([1, 0.45], 10)],
    "ring": [_contour([1], 64), _contour([0.55], 64)],
}
CATEGORY_IDS = {name: i for i, name in enumerate(SHAPES, start=1)}


class Scene:
    """An image under construction: the visible shape at each point of the fine grid."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        self.owner = np.zeros((size * FINE, size * FINE), np.int32)  # 0: background, k: the k-th shape
        self.areas = [0]  # of every owner when it was put there, in points of the fine grid

    def add(self, name: str, center: np.ndarray, radius: float) -> bool:
        """Put a rotated and squeezed shape on top unless it would hide too much of another; returns whether it did."""
        turn, squeeze = self.rng.uniform(0, 2 * np.pi), self.rng.uniform(0.65, 1)
        linear = radius * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        linear[1] *= squeeze
        contours = [np.rint((points @ linear + center) * FINE).astype(np.int32) for points in SHAPES[name]]
        shape = cv2.fillPoly(np.zeros(self.owner.shape, np.uint8), contours, 1).astype(bool)
        remaining = np.bincount(self.owner[~shape], minlength=len(self.areas))
        if any(left < MIN_VISIBLE * area for left, area in zip(remaining, self.areas, strict=True)):
            return False
        self.owner[shape] = len(self.areas)
        self.areas.append(int(shape.sum()))
        return True

    def add_objects(self, count: int) -> list[str]:
        """Add up to ``count`` shapes anywhere; returns their names."""
        added = []
        for name in self.rng.choice(list(SHAPES), count):
            center = self.rng.uniform(0.08, 0.92, 2) * self.size
            radius = np.exp(self.rng.uniform(np.log(0.05), np.log(0.22))) * self.size
            if self.add(name, center, radius):
                added.append(name)
        return added

    def add_crowd(self, name: str) -> None:
        """Add many small shapes of one kind, close together."""
        middle = self.rng.uniform(0.25, 0.75, 2) * self.size
        for _ in range(24):
            self.add(name, middle + self.rng.uniform(-0.15, 0.15, 2) * self.size, 0.035 * self.size)

    def render(self) -> np.ndarray:
        """The image, ``(size, size, 3)`` uint8 in BGR."""
        image = np.zeros((self.size, self.size, 3))
        for k in range(len(self.areas)):
            image += _shrink(self.owner == k)[..., None] * self._texture(pale=k == 0)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)

    def _texture(self, pale: bool) -> np.ndarray:
        """A colour, pale or vivid, under clouds, stripes and grain: ``(size, size, 3)``, about 0 to 255."""
        rng, size = self.rng, self.size
        saturation = rng.uniform(0, 80) if pale else rng.uniform(110, 255)
        hsv = np.array([[[rng.uniform(0, 180), saturation, rng.uniform(70, 230)]]], np.uint8)
        clouds = rng.normal(0, rng.uniform(5, 25), (cells := rng.integers(3, 12), cells))
        clouds = cv2.resize(clouds, (size, size), interpolation=cv2.INTER_CUBIC)
        angle, period = rng.uniform(0, np.pi), rng.uniform(0.03, 0.2) * size
        y, x = np.mgrid[:size, :size]
        stripes = rng.uniform(0, 25) * np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
        grain = rng.normal(0, 6, (size, size))
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR) + (clouds + stripes + grain)[..., None]


def _shrink(visible: np.ndarray) -> np.ndarray:
    """Share of every image pixel, 0 to 1, that a boolean mask on the fine grid covers."""
    height, width = visible.shape
    return cv2.resize(visible.astype(np.float64), (width // FINE, height // FINE), interpolation=cv2.INTER_AREA)


def _segmentation(visible: np.ndarray) -> list | dict:
    """A boolean mask on the fine grid in COCO's format: polygons in image pixels, or run lengths if it has holes."""
    contours, hierarchy = cv2.findContours(visible.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[0, :, 3] >= 0).any():  # a contour inside another
        return _run_lengths(visible)
    contours = [cv2.approxPolyDP(c, 1, True) for c in contours]
    contours = [c for c in contours if cv2.contourArea(c) >= FINE**2]  # no slivers below one pixel of the image
    return [np.round((c.ravel() + 0.5) / FINE, 2).tolist() for c in contours]


def _run_lengths(visible: np.ndarray) -> dict:
    """COCO's uncompressed run lengths of a boolean mask on the fine grid, at the size of the image."""
    mask = _shrink(visible) >= 0.5
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *edges, pixels.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels[0] else counts}  # the first run is of zeros


def _annotation(visible: np.ndarray, name: str, iscrowd: bool) -> dict:
    segmentation = _run_lengths(visible) if iscrowd else _segmentation(visible)
    rles = mask_utils.frPyObjects(segmentation, *(n // FINE for n in visible.shape))  # type: ignore[call-overload]
    rle = mask_utils.merge(rles) if isinstance(rles, list) else rles
    return {
        "category_id": CATEGORY_IDS[name],
        "iscrowd": int(iscrowd),
        "segmentation": segmentation,
        "area": int(mask_utils.area(rle)),
        "bbox": mask_utils.toBbox(rle).tolist(),
    }


def make_image(rng: np.random.Generator, size: int, index: int) -> tuple[np.ndarray, list[dict]]:
    """Draw one image and its annotations, without ids.

    Args:
        rng: Source of all randomness in the image.
        size: Height and width in pixels.
        index: Position in its split. The first image has a crowd, the second no object; of the others one in
            forty each.

    Returns:
        The image ``(size, size, 3)`` in BGR, and one COCO annotation per object.
    """
    kind = {0: "crowd", 1: "empty"}.get(index) or rng.choice(["crowd", "empty", "objects"], p=[0.025, 0.025, 0.95])
    scene, crowd = Scene(rng, size), rng.choice(list(SHAPES))
    if kind == "crowd":
        scene.add_crowd(crowd)
    crowd_size = len(scene.areas) - 1
    objects = scene.add_objects(int(rng.integers(1, 7))) if kind != "empty" else []

    annotations = [
        _annotation(scene.owner == k, name, iscrowd=False) for k, name in enumerate(objects, start=crowd_size + 1)
    ]
    if crowd_size:
        annotations.append(_annotation((scene.owner > 0) & (scene.owner <= crowd_size), crowd, iscrowd=True))
    return scene.render(), annotations


def make_split(root: Path, split: str, info: dict, first_id: int) -> None:
    """Write the images of ``split`` and its annotation file into ``root``.

    Image ``i`` depends on seed, size, split and ``i`` only: a larger data set begins with the images of a smaller one.
    """
    (root / split).mkdir()
    images, annotations = [], []
    for index in trange(info["num_images"][split], desc=split, unit="image"):
        rng = np.random.default_rng([info["seed"], *split.encode(), index])
        image, objects = make_image(rng, info["size"], index)
        image_id = first_id + index
        file_name = f"{image_id:012d}.jpg"
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        (root / split / file_name).write_bytes(jpeg.tobytes())  # unlike cv2.imwrite, raises when the disk is full
        images.append({"id": image_id, "file_name": file_name, "height": info["size"], "width": info["size"]})
        for obj in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **obj})
    categories = [{"id": i, "name": name, "supercategory": "shape"} for name, i in CATEGORY_IDS.items()]
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def is_complete(root: Path, info: dict) -> bool:
    """Whether ``root`` holds the data set of ``info`` with all its images."""
    try:
        splits = {s: json.loads((root / "annotations" / f"instances_{s}.json").read_text()) for s in info["num_images"]}
    except (OSError, ValueError):
        return False
    return all(
        isinstance(content, dict)
        and content.get("info") == info
        and all((root / split / image["file_name"]).is_file() for image in content["images"])
        for split, content in splits.items()
    )


def make_sample_coco(root: Path, num_train: int, num_val: int, size: int, seed: int) -> bool:
    """Make the data set in ``root``; returns whether anything was written.

    Args:
        root: Folder to make. It appears when it is complete.
        num_train: Images in ``train2017``, at least 2.
        num_val: Images in ``val2017``, at least 2.
        size: Height and width of the images in pixels, at least ``MIN_SIZE``.
        seed: 0 or larger.

    Raises:
        ValueError: for a number out of range.
        FileExistsError: if ``root`` holds anything else than this data set.
    """
    limits = [("--train", num_train, 2), ("--val", num_val, 2), ("--size", size, MIN_SIZE), ("--seed", seed, 0)]
    for name, value, least in limits:
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    info = {
        "description": "Sample shapes made by tools/make_sample_coco.py",
        "seed": seed,
        "size": size,
        "num_images": {"train2017": num_train, "val2017": num_val},
    }
    if is_complete(root, info):
        return False
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not this data set; name another folder, or remove it first")

    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as partial:
        made = Path(partial) / root.name
        (made / "annotations").mkdir(parents=True)
        make_split(made, "train2017", info, first_id=1)
        make_split(made, "val2017", info, first_id=num_train + 1)
        made.rename(root)  # replaces an empty folder at most
    return True
