"""What tools/train.py and tools/test.py share: arguments, the config, and checks that come before any time is spent."""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _options import HELP as OPTIONS_HELP
from _options import merge_options
from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS, RUNNERS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner

import backbones.engine.resumable  # noqa: F401  (the config copied into a work dir names its classes)

COCO_HELP = """\
COCO 2017 is at https://cocodataset.org/#download: train2017.zip, val2017.zip and annotations_trainval2017.zip,
unpacked into that folder; --data-root DIR takes it from another one. A small generated data set of the same layout,
with classes and so a config of its own, is made in seconds:
    python tools/make_sample_coco.py data/sample_coco
    python tools/train.py configs/revcol_maskrcnn_sample.py"""
OTHER_HELP = (
    "See the data set's own page for the files; --data-root DIR takes them from another folder of the same layout."
)


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


def make_parser(description: str) -> argparse.ArgumentParser:
    """The arguments both tools take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints (default: work_dirs/NAME_OF_CONFIG)")
    parser.add_argument("--data-root", help="take every data set of the config from this folder of the same layout")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help=OPTIONS_HELP
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    # torch.distributed.launch passes one spelling or the other, depending on torch's version
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the shared arguments to it."""
    if not os.path.isfile(args.config):
        raise UsageError(f"there is no config file {args.config}; the project's own are in configs/")
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    try:
        cfg = Config.fromfile(args.config)
    except (FileNotFoundError, ModuleNotFoundError) as error:
        raise UsageError(f"{args.config} cannot be read: {error}") from error
    init_default_scope(cfg.get("default_scope", "mmengine"))
    cfg.launcher = args.launcher
    if args.data_root:
        set_data_root(cfg, args.data_root)
    try:
        merge_options(cfg, args.cfg_options)
    except ValueError as error:
        raise UsageError(error) from error
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or os.path.join("work_dirs", Path(args.config).stem)
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the runner and with it the model; what a class says about wrong settings becomes a :class:`UsageError`."""
    try:
        return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)  # type: ignore[arg-type]
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"the model or the runner cannot be built: {error}") from error


# ---------------------------------------------------------------------------------------------------------- data sets
LOOPS = ("train", "val", "test")


def _datasets(node: Any) -> Iterator[dict]:
    """The innermost data sets of a data loader, whatever wraps them."""
    inner = [node["dataset"]] if "dataset" in node else node.get("datasets", [])
    if not inner:
        yield node
    for child in inner:
        yield from _datasets(child)


def _prefixes(dataset: dict) -> list[str]:
    prefix = dataset.get("data_prefix") or {}
    return [prefix] if isinstance(prefix, str) else list(prefix.values())


def _evaluators(cfg: Config, loop: str) -> list[dict]:
    evaluator = cfg.get(f"{loop}_evaluator") or []
    evaluator = evaluator.get("metrics", evaluator) if isinstance(evaluator, dict) else evaluator
    return [evaluator] if isinstance(evaluator, dict) else list(evaluator)


def _is_local(path: str) -> bool:
    return "://" not in path


def _inside(path: str, root: str) -> bool:
    path, root = os.path.normpath(path), os.path.normpath(root)
    return path == root or path.startswith(root + os.sep)


def _root(dataset: dict) -> str:
    """The folder a data set lies in: its ``data_root``, or what its joined paths have in common."""
    paths = [path for path in [dataset.get("ann_file"), *_prefixes(dataset)] if path]
    root = dataset.get("data_root") or (os.path.commonpath(paths) if len(paths) > 1 else "")
    if not root:
        raise UsageError(
            f"--data-root: the config's {dataset.get('type')} names no data_root; set its paths by --cfg-options"
        )
    return root


def set_data_root(cfg: Config, new: str) -> None:
    """Point every data set and every evaluator of a config at another folder of the same layout, in place.

    Args:
        cfg: The config. Data sets may be wrapped in others; paths may be relative to ``data_root`` or joined with it.
        new: The other folder.

    Raises:
        UsageError: for an evaluator's annotation file that lies in no data set's folder.
    """
    loaders = [f"{loop}_dataloader" for loop in LOOPS if cfg.get(f"{loop}_dataloader")]
    roots = sorted({_root(dataset) for loader in loaders for dataset in _datasets(cfg[loader])}, key=len, reverse=True)

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return type(node)({key: moved(value) for key, value in node.items()})
        if isinstance(node, (list, tuple)):
            return type(node)(map(moved, node))
        root = next((root for root in roots if isinstance(node, str) and _inside(node, root)), None)
        return node if root is None else os.path.normpath(os.path.join(new, os.path.relpath(node, root)))

    for loop in LOOPS:
        for evaluator in _evaluators(cfg, loop):
            file = evaluator.get("ann_file")
            if file and not any(_inside(file, root) for root in roots):
                raise UsageError(
                    f"--data-root: {loop}_evaluator reads {file}, outside the data sets' folders ({', '.join(roots)}); "
                    f"set {loop}_evaluator.ann_file by --cfg-options"
                )
    for key in [*loaders, *(f"{loop}_evaluator" for loop in LOOPS if cfg.get(f"{loop}_evaluator")), "data_root"]:
        if key in cfg:
            cfg[key] = moved(cfg[key])


def _dataset_class(dataset: dict) -> Any:
    """The class a data set's config names, or None."""
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(dataset["type"]) if isinstance(dataset.get("type"), str) else dataset.get("type")


def _downloads(dataset: dict) -> bool:
    """Whether a data set fetches its own files (mmpretrain's CIFAR and MNIST)."""
    cls = _dataset_class(dataset)
    parameter = inspect.signature(cls).parameters.get("download") if cls else None
    return dataset.get("download", parameter is not None and parameter.default)


def check_data(cfg: Config, loops: tuple[str, ...]) -> None:
    """Refuse a config whose annotation files or image folders are not there.

    Raises:
        UsageError: with the expected tree, where to get the data, and the command that makes a sample data set.
    """
    expected: dict[str, None] = {}  # an ordered set
    types = set()
    for loop in loops:
        if not cfg.get(f"{loop}_dataloader"):
            continue
        for dataset in _datasets(cfg[f"{loop}_dataloader"]):
            if _downloads(dataset):
                continue
            root = dataset.get("data_root") or ""
            parts = [part for part in [dataset.get("ann_file"), *_prefixes(dataset)] if part]
            expected |= dict.fromkeys(os.path.join(root, part) for part in parts or [""])
            types.add(str(dataset.get("type")))
        expected |= dict.fromkeys(e["ann_file"] for e in _evaluators(cfg, loop) if e.get("ann_file"))
    paths = {os.path.normpath(path) for path in expected if path and _is_local(path)}
    absent = {path for path in paths if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path))}
    if absent:
        tree = "\n".join(f"    {path:60} {'<- missing' if path in absent else ''}".rstrip() for path in sorted(paths))
        raise UsageError(
            f"the data set is not there. The config expects\n{tree}\n"
            + (COCO_HELP if any("Coco" in name for name in types) else OTHER_HELP)
        )
    _check_coco_classes([dataset for loop in loops for dataset in _datasets(cfg.get(f"{loop}_dataloader") or {})])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _check_coco_classes(datasets: list[dict]) -> None:
    """Refuse a COCO annotation file without all of the config's classes; mmdet would fail at the first evaluation.

    Reads the smallest file only: all files of a data set share their categories, and COCO's largest takes long.
    """
    files = {
        os.path.join(dataset.get("data_root") or "", dataset["ann_file"]): dataset
        for dataset in datasets
        if str(dataset.get("type")).endswith("CocoDataset") and dataset.get("ann_file")
    }
    if not (local := [path for path in files if _is_local(path)]):
        return
    smallest = min(local, key=os.path.getsize)
    dataset = files[smallest]
    classes = (dataset.get("metainfo") or {}).get("classes") or _dataset_class(dataset).METAINFO["classes"]
    classes = [classes] if isinstance(classes, str) else list(classes)
    names = [category["name"] for category in json.loads(Path(smallest).read_text())["categories"]]
    ignored = [name for name in names if name not in classes]
    if lacking := [name for name in classes if name not in names]:
        raise UsageError(
            f"{smallest} has the categories {_listed(names)}, but not the config's {_listed(lacking)}. Set "
            "metainfo.classes of every data set and num_classes of the heads; the sample data set has a config of its "
            "own, configs/revcol_maskrcnn_sample.py"
        )
    if ignored:
        say(f"objects of {', '.join(ignored)} are left out: the config's classes do not contain them")


# -------------------------------------------------------------------------------------------------------- checkpoints
def check_pretrained(cfg: Config) -> None:
    """Refuse a config whose ``load_from`` or ``init_cfg`` names a file that is not there."""

    def checkpoints(node: Any, where: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict):
            if node.get("type") == "Pretrained":
                yield f"{where}.checkpoint", node["checkpoint"]
            for key, value in node.items():
                yield from checkpoints(value, f"{where}.{key}")
        elif isinstance(node, (list, tuple)):
            for index, value in enumerate(node):
                yield from checkpoints(value, f"{where}.{index}")

    for where, path in [*checkpoints(cfg.model.to_dict(), "model"), ("load_from", cfg.get("load_from"))]:
        if path and ":" not in path and not os.path.isfile(os.path.expanduser(path)):
            raise UsageError(
                f"{where} names {path}, which is not there; give another path or URL by --cfg-options, or {where}=None"
            )


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint as the runner will, onto the CPU."""
    if ":" not in path and not os.path.isfile(os.path.expanduser(path)):
        raise UsageError(
            f"there is no checkpoint {path}; training writes them into its work dir as epoch_N.pth or iter_N.pth"
        )
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    except Exception as error:  # torch raises whatever the broken bytes lead to
        raise UsageError(f"{path} cannot be read as a checkpoint ({error}); is the file complete?") from error
    if not isinstance(checkpoint, dict):
        raise UsageError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def check_fits(model: torch.nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Refuse weights of another model; the runner itself would only warn and go on with random ones.

    Raises:
        UsageError: naming what is missing, left over, or of another shape.
    """
    have = {key.removeprefix("module."): value for key, value in checkpoint.get("state_dict", checkpoint).items()}
    want = {key.removeprefix("module."): value for key, value in model.state_dict().items()}
    wrong = [f"{key} (not in the file)" for key in want if key not in have]
    wrong += [f"{key} (not in the model)" for key in have if key not in want]
    wrong += [
        f"{key} (file {tuple(have[key].shape)}, model {tuple(want[key].shape)})"
        for key in want
        if key in have and have[key].shape != want[key].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UsageError(
            f"{path} was made by another model than the config's: {', '.join(wrong[:4])}{more}. "
            "Give the config it was trained with; its work dir has a copy"
        )
