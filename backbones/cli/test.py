"""Evaluate a checkpoint; write or draw its predictions.

Examples:
    densebackbones test CONFIG work_dirs/NAME/epoch_12.pth --show-dir pictures
    densebackbones test CONFIG CHECKPOINT --data-root FOLDER --classes auto    # after a training on such labels
"""

import argparse
import inspect
import json
import os
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, DumpResults
from mmengine.registry import HOOKS, METRICS

from backbones.cli import _runs
from backbones.cli._checkpoints import is_published, load_published, load_trained, read_checkpoint
from backbones.config.lookup import registered
from backbones.datasets.check import check_data
from backbones.datasets.find import evaluators
from backbones.pictures.classification import ClassificationPictures
from backbones.pictures.samples import draw_into
from backbones.usage import UsageError, make_folder, note

SINGLE_LABEL = ("Accuracy", "SingleLabelMetric", "ConfusionMatrix")  # mmpretrain's metrics of one class per image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    _runs.add_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--show-dir",
        help="write the metrics and a picture of each image here, ground truth left, prediction right; for a "
        "classifier also a confusion matrix and its most confident mistakes",
    )
    parser.add_argument("--out", help="write the predictions to this .pkl file, the metrics to a .json file beside it")


def main(args: argparse.Namespace) -> None:
    """Check, then evaluate."""
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise UsageError(f"--out {args.out}: predictions are written as a pickle, so its name must end in .pkl")
    cfg = _runs.load_config(args)
    _runs.check_settings(cfg, args.config, ("test_dataloader", "model"))
    published = _runs.takes_published_weights(cfg) and is_published(args.checkpoint)
    checkpoint = {} if published else read_checkpoint(args.checkpoint)
    check_data(cfg, ("test",))
    for folder in filter(None, (args.show_dir and Path(args.show_dir), args.out and Path(args.out).parent)):
        make_folder(folder)
    if args.show_dir:
        set_show_dir(cfg, args.show_dir)
    cfg.load_from = None  # the runner would run code of the file
    cfg.resume = False
    for key in ("runner_type", "strategy"):  # of a training divided over processes; the weights alone are whole
        cfg.pop(key, None)
    # A checkpoint's state_dict holds the averaged weights; mmpretrain's hook would also evaluate the others
    # and overwrite the files.
    cfg.custom_hooks = [hook for hook in cfg.get("custom_hooks") or [] if "EMAHook" not in str(hook["type"])]
    runner = _runs.build_runner(cfg)
    model = getattr(runner.model, "module", runner.model)
    if published:
        load_published(model, args.checkpoint)
    else:
        load_trained(model, checkpoint, args.checkpoint)
    try:
        loop: Any = runner.test_loop
    except Exception as error:  # classes of the hosts raise anything
        raise UsageError(f"the evaluation cannot start: {_runs.reason(error)}") from error
    classes = loop.dataloader.dataset.metainfo.get("classes")
    note_classes(((checkpoint.get("meta") or {}).get("dataset_meta") or {}).get("classes"), classes)
    del checkpoint
    if args.show_dir:
        draw_into(runner.visualizer, args.show_dir)
        if any(metric.get("type") in SINGLE_LABEL for metric in evaluators(cfg, "test")):
            runner.test_evaluator.metrics.append(ClassificationPictures(args.show_dir, classes))
    if args.out:
        runner.test_evaluator.metrics.append(dump_metric(args.out))
    metrics = runner.test()
    _runs.leave()
    beside = [args.show_dir and Path(args.show_dir, "metrics.json"), args.out and Path(args.out).with_suffix(".json")]
    for file in filter(None, beside):
        file.write_text(json.dumps(metrics, indent=2, default=float) + "\n")


def set_show_dir(cfg: Config, folder: str) -> None:
    """Make the host's visualization hook draw every test image into ``folder``."""
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise UsageError("--show-dir: the config has no default_hooks.visualization, the hook that draws")
    options = inspect.signature(registered(HOOKS, hook["type"])).parameters
    hook.update({key: True for key in ("draw", "enable") if key in options}, interval=1)
    out_dir = next((key for key in ("test_out_dir", "out_dir") if key in options), None)  # mmdet's, mmpretrain's
    if out_dir:
        hook[out_dir] = os.path.abspath(folder)


class DumpLabelMaps(DumpResults):
    """Writes predictions to a file; of segmentation only the predicted class of each pixel.

    mmseg's samples also hold the scores of all classes, 4 bytes per class and pixel: 200 MB per image of ADE20K.
    """

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Collect the predictions of a batch."""
        kept = [
            {key: value for key, value in p.items() if key not in ("seg_logits", "gt_sem_seg")} for p in predictions
        ]
        for prediction in kept:
            if "pred_sem_seg" in prediction:
                prediction["pred_sem_seg"] = {"data": prediction["pred_sem_seg"]["data"].to(torch.int16)}
        super().process(data_batch, kept)


def dump_metric(path: str) -> BaseMetric:
    """The metric that writes predictions to a file: mmdet's own, which compresses masks, or ours."""
    with METRICS.switch_scope_and_registry(None) as registry:
        compressing = registry.module_dict.get("DumpDetResults", DumpLabelMaps)
    return compressing(out_file_path=path)


def note_classes(trained: Sequence[str] | None, tested: Sequence[str] | None) -> None:
    """Print a notice if the class names of the data set differ from the training's; classes are compared by number."""
    differing = [pair for pair in zip_longest(trained or (), tested or ()) if pair[0] != pair[1]]
    if trained and tested and differing:
        was, now = differing[0]
        note(
            f"{len(differing)} classes have other names in the data set than in the checkpoint's training, the first "
            f"is {now!r} and was {was!r}; predictions are compared by class number"
        )
