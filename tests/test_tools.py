"""tools/train.py, test.py and plot_run.py, as real processes on real files."""

import json
import os
import pickle
import re
import signal
import subprocess
import time
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tool_runs import MULTISCALE, ROOT, command, environment, losses, run, run_without

from backbones.config.options import merge_options
from backbones.datasets.move import set_data_root
from backbones.pictures import curves
from backbones.usage import UsageError

pytestmark = pytest.mark.slow

CONFIG = ROOT / "configs" / "revcol_maskrcnn_coco.py"
SMALL = {  # the COCO config with a tiny model, tiny images and three epochs of eight images
    "model.backbone.arch._delete_": True,
    "model.backbone.arch.channels": "8,16,32,64",
    "model.backbone.arch.depths": "1,1,1,1",
    "model.backbone.arch.num_columns": 2,
    "model.neck.in_channels": "8,16,32,64",
    "model.neck.out_channels": 16,
    "model.rpn_head.in_channels": 16,
    "model.rpn_head.feat_channels": 16,
    "model.roi_head.bbox_roi_extractor.out_channels": 16,
    "model.roi_head.bbox_head.in_channels": 16,
    "model.roi_head.bbox_head.fc_out_channels": 32,
    "model.roi_head.mask_roi_extractor.out_channels": 16,
    "model.roi_head.mask_head.in_channels": 16,
    "model.roi_head.mask_head.conv_out_channels": 16,
    "model.test_cfg.rpn.max_per_img": 20,
    "model.test_cfg.rcnn.score_thr": 0.0,
    "model.test_cfg.rcnn.max_per_img": 5,
    **MULTISCALE,
    "val_dataloader.dataset.pipeline.1.scale": "(96,96)",
    "test_dataloader.dataset.pipeline.1.scale": "(96,96)",
    "train_dataloader.dataset.indices": 8,
    "val_dataloader.dataset.indices": 2,
    "test_dataloader.dataset.indices": 2,
    "train_cfg.max_epochs": 3,
    "train_cfg.val_interval": 3,
    "param_scheduler.0.end": 2,
    "optim_wrapper.optimizer.lr": 1e-3,
    "default_hooks.logger.interval": 1,
    "default_hooks.visualization.score_thr": 0.0,
}


def options(**changes) -> list[str]:
    return ["--cfg-options", *(f"{key}={value}" for key, value in {**SMALL, **changes}.items())]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of an uninterrupted run."""
    work_dir = tmp_path_factory.mktemp("trained")
    result = run("train", CONFIG, "--data-root", data, "--work-dir", work_dir, *options(**{"randomness.seed": 0}))
    assert result.returncode == 0, result.stderr
    return work_dir


def test_detection_works_without_mmpretrain(data, tmp_path):
    short = options(**{"train_dataloader.dataset.indices": 2, "train_cfg.max_epochs": 1, "train_cfg.val_interval": 1})
    arguments = ("--data-root", data, "--work-dir", tmp_path)
    result = run_without("mmpretrain", "train", CONFIG, *arguments, *short)
    assert result.returncode == 0, result.stderr
    result = run_without("mmpretrain", "test", CONFIG, tmp_path / "epoch_1.pth", *arguments, *short)
    assert result.returncode == 0, result.stderr
    assert "coco/bbox_mAP" in result.stdout + result.stderr


def test_classification_without_mmpretrain_is_an_error_with_the_reason(tmp_path):
    imports = tmp_path / "imports.py"  # fails at the import; in OneDL, the other config fails at `_base_` already
    imports.write_text('custom_imports = dict(imports=["backbones.classification"], allow_failed_imports=False)')
    for config in (ROOT / "configs" / "revcol_imagenet.py", imports):
        result = run_without("mmpretrain", "train", config, "--work-dir", tmp_path)
        assert result.returncode == 2, result.stderr
        assert re.search(rf"error: .*{config.name} cannot be read: .*mmpretrain", result.stderr), result.stderr
        assert "Traceback" not in result.stderr


# ------------------------------------------------------------------------------------------------ train, stop, resume
def test_stopped_and_resumed_run_has_the_loss_curve_of_an_uninterrupted_one(trained, data, tmp_path):
    """A cluster's signal in the middle of an epoch; ``test_interruptions`` has kills."""
    arguments = (CONFIG, "--data-root", data, "--work-dir", tmp_path)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            command("train", *arguments, *options(**{"randomness.seed": 0})),
            stdout=log,
            stderr=log,
            env=environment(),
            start_new_session=True,
        )
        while not re.search(r"\(train\) +\[2\]\[2/4\]", (tmp_path / "log").read_text()):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)  # with its data-loading workers
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    (done,) = re.findall(r"stopped by SIGTERM after iteration (\d+) of 12, saved as", (tmp_path / "log").read_text())
    assert int(done) in (6, 7, 8)
    # the resumed run takes its seed from the checkpoint
    resumed = run("train", *arguments, "--resume", *options())
    assert resumed.returncode == 0, resumed.stderr

    (uninterrupted,) = losses(trained)
    stopped, continued = losses(tmp_path)
    assert list(uninterrupted) == list(range(1, 13))
    assert stopped == {step: uninterrupted[step] for step in range(1, int(done) + 1)}
    assert continued == {step: uninterrupted[step] for step in range(int(done) + 1, 13)}


def test_evaluation_gives_finite_box_and_mask_metrics_dumps_and_pictures(trained, data, tmp_path):
    result = run(
        *("test", trained / CONFIG.name, trained / "epoch_3.pth", "--work-dir", tmp_path / "work"),
        *("--out", tmp_path / "predictions.pkl", "--show-dir", tmp_path / "pictures"),
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "predictions.json").read_text())
    for name in ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP", "coco/segm_mAP_50"):
        assert 0 <= metrics[name] <= 1
    with open(tmp_path / "predictions.pkl", "rb") as file:
        predictions = pickle.load(file)
    assert [len(p["pred_instances"]["masks"]) for p in predictions] == [5, 5]
    assert json.loads((tmp_path / "pictures" / "metrics.json").read_text()) == metrics
    pictures = sorted((tmp_path / "pictures").glob("*.jpg"))
    assert [path.stem for path in pictures] == sorted(Path(p["img_path"]).stem for p in predictions)
    for path, prediction in zip(pictures, sorted(predictions, key=lambda p: p["img_path"]), strict=True):
        height, width = prediction["ori_shape"]
        scale = -(-480 // max(height, width))  # small images are enlarged
        assert cv2.imread(str(path)).shape == (scale * height, 2 * scale * width, 3)


def test_plot_run_joins_runs_and_prints_the_metrics(trained, tmp_path):
    log = next(trained.glob("*/vis_data/scalars.json")).read_text().splitlines()
    for name, lines in {
        "1": [*log[:6], log[6][:9]],
        "2": log[4:],
    }.items():  # killed while writing; resumed after epoch 1
        (tmp_path / name / "vis_data").mkdir(parents=True)
        (tmp_path / name / "vis_data" / "scalars.json").write_text("\n".join(lines))
    training, evaluations = curves.split(curves.read_runs(tmp_path))
    assert {record["step"]: record["loss"] for record in training} == losses(trained)[0]
    assert len(training) == 12
    assert [record["iteration"] for record in evaluations] == [12]

    result = run("plot", tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"coco/segm_mAP_50 +\d\.\d{3} +\d\.\d{3} +12\n", result.stdout)
    assert re.search(r"training time +0:\d\d:\d\d for 12 iterations", result.stdout)
    assert cv2.imread(str(tmp_path / "curves.png")).shape == (960, 960, 3)


def test_plot_run_draws_several_runs_over_each_other(trained, tmp_path, monkeypatch):
    run_ = curves.split(curves.read_runs(trained))
    later = [{**record, "loss": record["loss"] + 1} for record in run_[0]], run_[1]
    figures = []
    monkeypatch.setattr(curves, "finish", lambda figure, out: figures.append(figure))
    curves.draw_beside({"one": run_, "two": later}, tmp_path / "curves.png")
    loss, *metrics = figures[0].axes
    assert [line.get_label() for line in loss.lines] == ["one", "two"]
    one, two = (line.get_ydata() for line in loss.lines)
    assert list(one) == list(losses(trained)[0].values())
    assert list(two) == [value + 1 for value in one]
    names = ["coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP", "coco/segm_mAP_50"]
    assert [axis.get_ylabel() for axis in metrics] == names
    assert all(list(line.get_xdata()) == [12] for axis in metrics for line in axis.lines)

    monkeypatch.undo()
    (tmp_path / "1").symlink_to(trained)
    picture = tmp_path / "new" / "both.png"
    result = run("plot", trained, tmp_path / "1", "-o", picture)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("training time") == 2
    assert cv2.imread(str(picture)).shape == (1260, 1440, 3)
    result = run("plot", trained, tmp_path)
    assert result.returncode == 2
    assert f"{tmp_path} holds no log of a training run" in result.stderr


def test_plot_run_of_a_folder_without_runs_is_an_error(tmp_path, fail):
    assert "holds no log of a training run" in fail("plot", tmp_path)


# ------------------------------------------------------------------------------------------- errors before time is lost
def test_error_is_a_message_and_status_2_without_traceback():
    result = run("train", "configs/nothing.py")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("error: there is no config configs/nothing.py")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("tool", ["train", "test"])
def test_missing_data_shows_the_tree_the_source_and_the_sample(tool, trained, tmp_path, fail):
    checkpoint = [trained / "epoch_3.pth"] if tool == "test" else []
    (tmp_path / "val2017").mkdir()  # empty, so as good as missing
    message = fail(tool, CONFIG, *checkpoint, "--data-root", tmp_path)
    for path in ["annotations/instances_val2017.json", "val2017"] + ["train2017"] * (tool == "train"):
        assert re.search(rf"{tmp_path}/{path} +<- missing", message)
    assert "https://cocodataset.org/#download" in message
    assert "densebackbones sample-data data/sample_coco" in message


def test_data_of_other_classes_is_refused(sample, tmp_path, fail):
    message = fail("train", CONFIG, "--data-root", sample, "--work-dir", tmp_path)
    assert "has the categories disc, rectangle, triangle, star, ring, but not the config's person, bicycle," in message


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("model.backbon.arch=tiny", "'model' has no 'backbon'; did you mean model.backbone?"),
        ("train_dataloader.batchsize=2", "did you mean train_dataloader.batch_size"),
        ("model.backbone.out_indexes=0,1", "did you mean model.backbone.out_indices"),
        ("train_cfg.max_epoch=3", "did you mean train_cfg.max_epochs"),
        ("optim_wrapper.optimizer.weight_decy=0", "did you mean optim_wrapper.optimizer.weight_decay"),
        ("randomnes.seed=0", "there is no 'randomnes'; did you mean randomness?"),
        ("max_epochs=3", "'max_epochs' is a helper variable of the config file"),
        ("max_epochs=3", "Change the settings made from it: train_cfg.max_epochs"),
        (
            "train_dataloader.dataset.pipeline.9.prob=0",
            "'train_dataloader.dataset.pipeline' is a list; name one of its entries, 0 to 4",
        ),
        ("train_dataloader.seed=0", "'train_dataloader' has no 'seed'"),  # set by the runner
        ("model.backbone.arch.depths=1,1,1,1", "add model.backbone.arch._delete_=True to replace it"),
    ],
)
def test_wrong_option_is_refused_with_the_allowed_ones(option, answer, data, tmp_path, fail):
    assert answer in fail("train", CONFIG, "--data-root", data, "--work-dir", tmp_path, "--cfg-options", option)


def test_legal_options_are_merged():
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    changes = {
        "optim_wrapper.clip_grad.max_norm": 5,  # an argument of the class, absent from the config
        "train_dataloader.dataset.indices": 8,  # an argument of a base class behind **kwargs
        "train_dataloader.prefetch_factor": 4,  # an argument of DataLoader
        "default_hooks.checkpoint.max_keep_ckpts": 1,
        "model.backbone.type": "ResNet",
        "model.backbone.depth": 18,  # an argument of the new class
        "train_dataloader.dataset.pipeline.2.prob": 0.1,
        "randomness.seed": 0,
        "+model.test_cfg.rcnn.new": 1,  # declared nowhere
    }
    merge_options(cfg, changes)
    for key, value in changes.items():
        node = cfg
        for part in key.lstrip("+").split("."):
            node = node[int(part) if part.isdigit() else part]
        assert node == value


def test_missing_weights_are_refused(data, tmp_path, fail):
    arguments = (CONFIG, "--data-root", data, "--work-dir", tmp_path)
    pretrained = ["model.backbone.init_cfg.type=Pretrained", "model.backbone.init_cfg.checkpoint=no.pth"]
    assert "model.backbone.init_cfg.checkpoint names no.pth" in fail("train", *arguments, "--cfg-options", *pretrained)
    assert "load_from names no.pth" in fail("train", *arguments, "--cfg-options", "load_from=no.pth")
    assert "there is no checkpoint no.pth" in fail("train", *arguments, "--resume", "no.pth")
    assert "there is no checkpoint no.pth" in fail("test", CONFIG, "no.pth", "--data-root", data)
    (tmp_path / "cut.pth").write_bytes(b"PK")
    assert "is the file complete?" in fail("test", CONFIG, tmp_path / "cut.pth", "--data-root", data)


def test_earlier_run_is_not_overwritten(trained, data, fail):
    message = fail("train", CONFIG, "--data-root", data, "--work-dir", trained)
    assert f"{trained} already holds a run (epoch_3.pth)" in message


def test_resume_without_a_whole_checkpoint_is_refused(trained, data, tmp_path, fail):
    arguments = (CONFIG, "--data-root", data, "--work-dir", tmp_path)
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": torch.load(trained / "epoch_3.pth", weights_only=False)["state_dict"]}, weights)
    assert "is not a checkpoint of a training run" in fail("train", *arguments, "--resume", weights)
    (tmp_path / "last_checkpoint").write_text("/elsewhere/epoch_1.pth")
    assert "names /elsewhere/epoch_1.pth, which does not exist" in fail("train", *arguments, "--resume")


def test_errors_of_the_built_model_are_refused_too(trained, data, tmp_path):
    """In processes of their own, as mmengine builds one runner per process."""
    last = trained / "epoch_3.pth"
    shared = ("--data-root", data, "--work-dir", tmp_path)
    default = {"optim_wrapper.constructor": "DefaultOptimWrapperConstructor", "optim_wrapper.paramwise_cfg": None}
    for message, arguments in {
        "neck.lateral_convs.0.conv.weight (file (16, 8, 1, 1), model (8, 8, 1, 1))": (
            *("test", CONFIG, last, *shared, *options(**{"model.neck.out_channels": 8})),
        ),
        "the optimizer state in": ("train", CONFIG, "--resume", last, *shared, *options(**default)),
        "unknown arch 'tinny'": ("train", CONFIG, *shared, "--cfg-options", "model.backbone.arch=tinny"),
    }.items():
        result = run(*arguments)
        assert result.returncode == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="mixed precision works on a GPU")
def test_amp_without_a_gpu_is_refused(data, tmp_path, fail):
    assert "--amp needs a GPU" in fail("train", CONFIG, "--data-root", data, "--work-dir", tmp_path, "--amp")


def test_auto_scale_lr_needs_the_batch_size_the_rate_is_for(data, tmp_path, fail):
    arguments = (CONFIG, "--data-root", data, "--work-dir", tmp_path, "--auto-scale-lr", "--cfg-options")
    assert "add --cfg-options auto_scale_lr.base_batch_size=N" in fail("train", *arguments, "auto_scale_lr=None")


# -------------------------------------------------------------------------------------------------------- --data-root
def test_data_root_reaches_every_data_set_and_evaluator():
    coco = dict(
        type="CocoDataset", data_root="data/coco/", ann_file="annotations/t.json", data_prefix=dict(img="train2017/")
    )
    joined = dict(ann_file="/sets/voc/annotations/t.json", data_prefix=dict(img="/sets/voc/train2017"))
    mixed = dict(type="MultiImageMixDataset", dataset=dict(type="ConcatDataset", datasets=[coco, joined]))
    cfg = Config(
        dict(
            train_dataloader=dict(dataset=dict(type="RepeatDataset", times=3, dataset=mixed)),
            val_dataloader=dict(dataset=coco),
            val_evaluator=[dict(type="CocoMetric", ann_file="data/coco/annotations/v.json"), dict(type="Timer")],
            test_dataloader=dict(dataset=coco),
            test_evaluator=dict(type="Evaluator", metrics=[dict(ann_file="data/coco//annotations/v.json")]),
        )
    )
    set_data_root(cfg, "data/coco/mini")  # inside the old folder: must not be moved twice
    moved = dict(coco, data_root="data/coco/mini")
    expected = dict(ann_file="data/coco/mini/annotations/t.json", data_prefix=dict(img="data/coco/mini/train2017"))
    assert cfg.train_dataloader.dataset.dataset.dataset.datasets == [moved, expected]
    assert cfg.val_dataloader.dataset == cfg.test_dataloader.dataset == moved
    assert cfg.val_evaluator[0].ann_file == "data/coco/mini/annotations/v.json"
    assert cfg.test_evaluator.metrics[0].ann_file == "data/coco/mini/annotations/v.json"

    cfg.val_evaluator = dict(type="CocoMetric", ann_file="elsewhere/v.json")
    with pytest.raises(UsageError, match=r"val_evaluator reads elsewhere/v\.json, outside the data sets' folders"):
        set_data_root(cfg, "other")
