"""tools/train.py and tools/test.py on images in a folder for each class: training, pictures, and refused data."""

import json
import pickle
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import SHARED
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from tool_runs import ROOT, losses, run

from backbones.checkpoints import load_pretrained
from backbones.config.hosts import config_folder
from backbones.config.options import merge_options
from backbones.datasets.check import check_data
from backbones.datasets.move import set_data_root
from backbones.pictures import classification

pytestmark = pytest.mark.slow

pytest.importorskip("mmpretrain")

CLASSES = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
FIVE = ["model.head.num_classes=5", "data_preprocessor.num_classes=5"]
CONFIG = f"""
_base_ = "{ROOT}/configs/_base_/imagenet.py"
custom_imports = dict(imports=["backbones"], allow_failed_imports=False)
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="RevCol",
        arch=dict(channels=[8, 16, 32, 64], depths=(1, 1, 1, 1), num_columns=2, kernel_size=3),
        out_indices=(3,),
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=64,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
data_preprocessor = dict(num_classes=1000)
train_dataloader = dict(batch_size=50, num_workers=1)
val_dataloader = dict(batch_size=50, num_workers=1)
test_dataloader = val_dataloader
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05))
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=1))
custom_hooks = [dict(type="EMAHook", momentum=0.5, evaluate_on_origin=True)]
"""


def draw(root: Path, train: int, val: int, classes: list[str] = CLASSES) -> Path:
    """Images of noise, of another colour for each class."""
    rng = np.random.default_rng(0)
    for split, number in {"train": train, "val": val}.items():
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            colour = np.eye(3)[label % 3] * 150 + 20 * label
            for i in range(number):
                image = np.clip(colour + rng.normal(0, 20, (96, 128, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / split / name / f"{i}.jpg"), image)
    return root


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of flowers where they lie beside the checkout, drawn images otherwise."""
    photographs = SHARED / "data" / "flowers_small"
    return photographs if photographs.is_dir() else draw(tmp_path_factory.mktemp("data") / "drawn", 50, 20)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A data set to spoil."""
    return draw(tmp_path / "drawn", 2, 1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small_revcol.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def trained(config, flowers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("trained")
    changes = [*FIVE, "randomness.seed=0"]
    result = run("train", config, "--data-root", flowers, "--work-dir", work_dir, "--cfg-options", *changes)
    assert result.returncode == 0, result.stderr
    return work_dir


# ------------------------------------------------------------------------------------------------------ train and test
def test_training_runs_with_mixup_and_names_the_classes(trained):
    (run_,) = losses(trained)
    assert list(run_) == [1, 2, 3, 4, 5]  # 250 images
    assert all(1 < loss < 3 for loss in run_.values())  # log 5 = 1.6
    meta = torch.load(trained / "epoch_1.pth", weights_only=False)["meta"]
    assert meta["dataset_meta"]["classes"] == tuple(CLASSES)


def test_evaluation_gives_top1_dump_confusion_matrix_mistakes_and_pictures(trained, flowers, tmp_path):
    pictures = tmp_path / "pictures"
    result = run(
        *("test", trained / "small_revcol.py", trained / "epoch_1.pth", "--work-dir", tmp_path / "work"),
        *("--out", tmp_path / "predictions.pkl", "--show-dir", pictures),
    )
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "predictions.pkl", "rb") as file:
        predictions = pickle.load(file)
    assert len(predictions) == 100
    counts = np.zeros((5, 5), int)
    for p in predictions:
        counts[CLASSES.index(Path(p["img_path"]).parent.name), p["pred_score"].argmax()] += 1
    metrics = json.loads((tmp_path / "predictions.json").read_text())
    assert json.loads((pictures / "metrics.json").read_text()) == metrics
    assert metrics == {"accuracy/top1": pytest.approx(np.trace(counts)), "accuracy/top5": 100}

    # the pictures are, pixel by pixel, those of the dumped predictions
    matrix = classification.draw_confusion_matrix(counts, CLASSES)
    cells = {text.get_position(): text.get_text() for text in matrix.axes[0].texts}
    assert cells == {(j, i): f"{counts[i, j]}\n{5 * counts[i, j]} %" for i, j in np.argwhere(counts)}
    assert [label.get_text() for label in matrix.axes[0].get_yticklabels()] == [f"{name} (20)" for name in CLASSES]
    assert matrix.axes[0].get_title() == f"top-1 {np.trace(counts):.2f} % of 100 images"

    guesses = [
        classification.Guess(
            p["img_path"], int(p["gt_label"]), int(p["pred_score"].argmax()), float(p["pred_score"].max())
        )
        for p in predictions
    ]
    wrong = sorted((g for g in guesses if g.guess != g.label), key=lambda g: -g.score)
    mistakes = classification.draw_mistakes(guesses, CLASSES)
    titles = [axis.get_title() for axis in mistakes.axes]
    assert titles == [f"{CLASSES[g.guess]} {g.score:.2f}" for g in wrong[:24]]
    assert [axis.texts[0].get_text() for axis in mistakes.axes] == [f"true: {CLASSES[g.label]}" for g in wrong[:24]]
    np.testing.assert_array_equal(mistakes.axes[0].images[0].get_array(), cv2.imread(wrong[0].path)[..., ::-1])
    for name, figure in {"confusion_matrix": matrix, "mistakes": mistakes}.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=classification.DPI)
        written, expected = cv2.imread(str(pictures / f"{name}.png")), cv2.imread(str(tmp_path / f"{name}.png"))
        np.testing.assert_array_equal(written, expected)

    # one picture for each image, in a folder for each class, in its colours
    assert sorted(path.name for path in pictures.iterdir()) == sorted(
        [*CLASSES, "confusion_matrix.png", "metrics.json", "mistakes.png"]
    )
    for p in predictions[::20]:
        path = Path(p["img_path"])
        drawn = cv2.imread(str(pictures / path.parent.name / path.name)).astype(int)
        assert drawn.shape == (672, 672, 3)
        image = cv2.imread(str(path))
        scale = 256 / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale)
        top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
        image = cv2.resize(image[top : top + 224, left : left + 224], (672, 672)).astype(int)
        assert abs(drawn - image)[200:].mean() < 8  # below the text; RGB for BGR would be tens


def test_names_are_short_and_those_of_imagenet_words():
    assert classification.readable_names(["a, b", "c" * 30]) == ["a", "c" * 22 + "..."]
    wordnet = [f"n{i:08}" for i in range(1000)]
    assert classification.readable_names(wordnet)[:2] == ["tench", "goldfish"]
    assert classification.readable_names(wordnet[:2]) == wordnet[:2]


def test_matrix_of_many_classes_lists_the_largest_confusions(tmp_path):
    counts = np.diag(np.full(1000, 45))
    counts[7, 9], counts[3, 1], counts[9, 7] = 20, 5, 30
    figure = classification.draw_confusion_matrix(counts, [str(i) for i in range(1000)])
    matrix, listed = figure.axes[0], figure.axes[1]
    assert len(matrix.texts) == 0
    assert [re.split(r" {2,}", line.strip()) for line in listed.texts[0].get_text().splitlines()[3:]] == [
        ["30", "40 %", "9 -> 7"],
        ["20", "31 %", "7 -> 9"],
        ["5", "10 %", "3 -> 1"],
    ]
    figure.savefig(tmp_path / "matrix.png", dpi=classification.DPI)
    height, width, _ = cv2.imread(str(tmp_path / "matrix.png")).shape
    assert width > height > 1000  # a pixel for each class


def test_no_mistakes_are_reported():
    assert (
        classification.draw_mistakes([classification.Guess("", 1, 1, 0.9)], ["a", "b"]).get_suptitle()
        == "0 mistakes in 1 images"
    )


def test_published_file_is_evaluated_as_it_is(fixtures, tmp_path):
    source = torch.load(fixtures / "revcol.pt", weights_only=True)
    names = [f"class_{i}" for i in range(10)]
    data = draw(tmp_path / "ten", 1, 1, names)
    arch = source["config"]
    arch = dict(channels=arch["channels"], depths=arch["layers"], num_columns=arch["num_subnet"])
    config = tmp_path / "published.py"
    config.write_text(f"""
_base_ = "{ROOT}/configs/_base_/imagenet.py"
custom_imports = dict(imports=["backbones.classification"], allow_failed_imports=False)
model = dict(
    type="DenseClassifier",
    backbone=dict(type="RevCol", arch={arch}),
    head=dict(type="SupervisedRevColHead", num_classes=10),
)
test_dataloader = dict(num_workers=0)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
""")
    torch.save({"model": source["state_dict"]}, tmp_path / "published.pth")
    shared = ("--data-root", data, "--work-dir", tmp_path / "work")
    dump = tmp_path / "predictions.pkl"
    result = run("test", config, tmp_path / "published.pth", *shared, "--out", dump)
    assert result.returncode == 0, result.stderr
    assert re.search(r"missing +0\n +unexpected +0\n", result.stdout + result.stderr)

    init_default_scope("mmpretrain")
    model = MODELS.build(Config.fromfile(config).model)
    load_pretrained(model, tmp_path / "published.pth")
    predictions = pickle.loads(dump.read_bytes())
    image = cv2.imread(predictions[3]["img_path"])[..., ::-1]
    scale = 256 / min(image.shape[:2])
    image = np.asarray(Image.fromarray(image).resize([round(scale * n) for n in image.shape[1::-1]], Image.BICUBIC))
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    crop = torch.tensor(image[top : top + 224, left : left + 224].copy()).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.backbone.pixel_mean, model.backbone.pixel_std))
    with torch.no_grad():
        scores = model.eval()((crop - mean) / std).softmax(1)[0]
    torch.testing.assert_close(predictions[3]["pred_score"], scores, rtol=0, atol=1e-5)

    del source["state_dict"]["stem.0.bias"]
    torch.save({"model": source["state_dict"]}, tmp_path / "published.pth")
    refused = run("test", config, tmp_path / "published.pth", *shared)
    assert refused.returncode == 2
    assert "Missing in the file, 1: backbone.stem.0.bias. Without a place in the model, 0: none." in refused.stderr


def test_training_starts_from_a_published_file_of_other_classes(fixtures, flowers, tmp_path):
    source = torch.load(fixtures / "vit.pt", weights_only=True)
    settings, weights = source["config"], source["state_dict"]
    torch.save(weights, tmp_path / "published.pth")
    arch = {key: settings[ours] for key, ours in [("embed_dims", "embed_dim"), ("depth", "depth")]}
    config = tmp_path / "published.py"
    config.write_text(f"""
_base_ = "{ROOT}/configs/_base_/imagenet.py"
custom_imports = dict(imports=["backbones.classification"], allow_failed_imports=False)
arch = dict({arch}, num_heads={settings["num_heads"]}, mlp_ratio={settings["mlp_ratio"]})
model = dict(
    type="DenseClassifier",
    backbone=dict(type="ViTTrunk", arch=arch, img_size={settings["img_size"]}),
    head=dict(type="ClassTokenHead", num_classes=5),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8)]),
)
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(indices=4))
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=0))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
load_from = "{tmp_path}/published.pth"
""")
    shared = (config, "--data-root", flowers, "--work-dir", tmp_path / "work")
    refused = run("train", *shared)
    assert refused.returncode == 2
    classes, width = weights["head.weight"].shape
    shapes = f"head.head.weight (file ({classes}, {width}), model (5, {width})), head.head.bias (file ({classes},)"
    assert f"published.pth: the head has another number of classes: {shapes}" in refused.stderr
    assert "tools/train.py: --reset-head" in refused.stderr

    result = run("train", *shared, "--reset-head")
    assert result.returncode == 0, result.stderr
    assert f"adapted: reinitialised: {shapes}" in result.stdout + result.stderr
    after = torch.load(tmp_path / "work" / "epoch_1.pth", weights_only=False)["state_dict"]
    assert after["head.head.weight"].std() > 0
    for ours, published in {
        "backbone.blocks.0.attn.qkv.weight": "blocks.0.attn.qkv.weight",
        "head.norm.bias": "norm.bias",
    }.items():
        torch.testing.assert_close(after[ours], weights[published], rtol=0, atol=0)

    own = f"load_from={tmp_path}/work/epoch_1.pth"
    larger = f"model.backbone.img_size={2 * settings['img_size']}"
    given = (*shared[:-1], tmp_path / "larger", "--cfg-options", own, larger)
    result = run("train", *given)
    assert result.returncode == 0, result.stderr
    assert "adapted: pos_embed was resized from 4 x 4 to 8 x 8" in result.stdout + result.stderr
    tuned = torch.load(tmp_path / "larger" / "epoch_1.pth", weights_only=False)["state_dict"]
    torch.testing.assert_close(tuned["head.head.weight"], after["head.head.weight"], rtol=0, atol=0)

    message = run("train", *shared, "--reset-head", "--resume").stderr
    assert "name it by --cfg-options load_from=PATH, without --resume" in message


def test_other_classes_than_in_training_are_reported(trained, flowers, tmp_path):
    shutil.copytree(flowers / "val", tmp_path / "val")
    (tmp_path / "val" / "daisy").rename(tmp_path / "val" / "edelweiss")
    result = run(
        *("test", trained / "small_revcol.py", trained / "epoch_1.pth", "--data-root", tmp_path),
        *("--work-dir", tmp_path / "work"),
    )
    assert result.returncode == 0, result.stderr
    assert (
        "2 classes have other names in the data set than in the checkpoint's training, the first is 'dandelion'"
        in result.stderr
    )


# -------------------------------------------------------------------------------------------------------- other classes
def test_head_of_other_classes_is_refused_and_reset_on_demand(trained, config, drawn, tmp_path):
    three = draw(tmp_path / "three", 4, 1, CLASSES[:3])
    changes = [option.replace("5", "3") for option in FIVE] + ["val_evaluator.topk=1", "test_evaluator.topk=1"]
    changes += ["optim_wrapper.optimizer.lr=0", "train_dataloader.batch_size=6", f"load_from={trained}/epoch_1.pth"]
    shared = ("--data-root", three, "--work-dir", tmp_path / "work", "--cfg-options", *changes)
    refused = run("train", config, *shared)
    assert refused.returncode == 2
    shapes = "head.fc.weight (file (5, 64), model (3, 64)), head.fc.bias (file (5,), model (3,))"
    assert f"another number of classes: {shapes}. Add --reset-head" in refused.stderr

    result = run("train", config, "--reset-head", *shared)
    assert result.returncode == 0, result.stderr
    assert f"initialised: {shapes}" in result.stderr
    assert "size mismatch" not in result.stdout + result.stderr
    before = torch.load(trained / "epoch_1.pth", weights_only=False)["state_dict"]
    after = torch.load(tmp_path / "work" / "epoch_1.pth", weights_only=False)["state_dict"]
    assert after["head.fc.weight"].shape == (3, 64)
    assert after["head.fc.weight"].std() > 0
    for key, value in before.items():  # the learning rate is 0
        if not key.startswith("head."):
            torch.testing.assert_close(after[key], value, rtol=0, atol=0)


def test_reset_head_needs_weights_to_start_from(config, drawn, tmp_path, fail):
    arguments = (config, "--data-root", drawn, "--work-dir", tmp_path, "--reset-head", "--cfg-options", *FIVE)
    assert "name it by --cfg-options load_from=PATH" in fail("train", *arguments)


def test_reset_head_needs_a_checkpoint(tmp_path, sample, fail):
    given = ("--data-root", sample, "--work-dir", tmp_path, "--reset-head")
    message = fail("train", ROOT / "configs" / "revcol_maskrcnn_sample.py", *given)
    assert "--reset-head starts from a checkpoint of other classes" in message


def test_config_without_validation_is_refused(tmp_path, fail):
    torch.save({"state_dict": {}}, tmp_path / "empty.pth")
    message = fail("test", ROOT / "configs" / "revcol-base_pretrain_imagenet-22k.py", tmp_path / "empty.pth")
    assert "has no test_dataloader" in message


def test_teacher_of_other_classes_is_refused_before_training(flowers, tmp_path):
    teacher = dict(_delete_=True, type="TimmClassifier", model_name="resnet10t", num_classes=7)
    config = tmp_path / "seven.py"
    config.write_text(f'_base_ = "{ROOT}/configs/deit_flowers.py"\nmodel = dict(teacher={teacher})\n')
    result = run("train", config, "--data-root", flowers, "--work-dir", tmp_path / "work")
    assert result.returncode == 2, result.stderr
    assert "error: the teacher gives logits (1, 7) for an image, the student has 5 classes" in result.stderr
    assert "Traceback" not in result.stderr


STOCK = config_folder("mmpretrain") / "resnet" / "resnet18_8xb32_in1k.py"
FOLDERS = [f"{loop}_dataloader.dataset.metainfo.classes=None" for loop in ("train", "val", "test")]


@pytest.mark.parametrize(("stock", "options"), [(False, FIVE), (True, FIVE + FOLDERS)])
def test_other_number_of_classes_is_refused_with_the_options_that_mend_it(
    stock, options, config, drawn, tmp_path, fail
):
    config = STOCK if stock else config
    message = fail("train", config, "--data-root", drawn, "--work-dir", tmp_path)
    assert f"{drawn}/train has 5 class folders (daisy, dandelion, roses, sunflowers, tulips)" in message
    assert "but model.head.num_classes is 1000, data_preprocessor.num_classes is 1000" in message
    assert message.strip().endswith(f"add --cfg-options {' '.join(options)}")

    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    merge_options(cfg, {key: None if value == "None" else int(value) for key, value in (o.split("=") for o in options)})
    set_data_root(cfg, str(drawn))
    check_data(cfg, ("train", "val", "test"))


def spoil(root: Path, how: str) -> None:
    if how == "empty":
        for name in ("roses", "tulips"):
            shutil.rmtree(root / "train" / name)
            (root / "train" / name).mkdir()
        (root / "train" / "roses" / "notes.txt").touch()
    elif how == "flat":
        for path in (root / "val").glob("*/*.jpg"):
            path.rename(root / "val" / f"{path.parent.name}_{path.name}")
        for folder in (root / "val").glob("*/"):
            folder.rmdir()
    elif how == "differ":
        (root / "val" / "roses").rename(root / "val" / "irises")
    else:
        (root / "meta").mkdir()
        lines = {"range": "daisy/0.jpg 0\ndaisy/1.jpg 5\n", "words": "daisy/0.jpg 0\ndaisy/1.jpg daisy\n"}[how]
        (root / "meta" / "train.txt").write_text(lines)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "2 of the 5 class folders in ROOT/train hold no image: roses, tulips. Add some (ending in .jpg,"),
        ("flat", "ROOT/val has no folders; each class needs one.\nImageNet-1k (ILSVRC 2012) is at https://image-net"),
        ("differ", "ROOT/train lacks irises and ROOT/val lacks roses. The number of a class"),
        (
            "range",
            "line 2 of ROOT/meta/train.txt is 'daisy/1.jpg 5'; a line is IMAGE LABEL, with a label from 0 to 4 as",
        ),
        (
            "words",
            "line 2 of ROOT/meta/train.txt is 'daisy/1.jpg daisy'; a line is IMAGE LABEL, with a label from 0 to",
        ),
    ],
)
def test_spoilt_data_is_refused(how, message, config, drawn, tmp_path, fail):
    spoil(drawn, how)
    said = fail("train", config, "--data-root", drawn, "--work-dir", tmp_path, "--cfg-options", *FIVE)
    assert said.startswith(message.replace("ROOT", str(drawn)))


def test_fewer_classes_than_ranks_are_refused(config, tmp_path, fail):
    three = draw(tmp_path / "three", 1, 1, CLASSES[:3])
    changes = [option.replace("5", "3") for option in FIVE]
    shared = ("--data-root", three, "--work-dir", tmp_path, "--cfg-options", *changes)
    said = fail("train", config, *shared)
    assert "but val_evaluator.topk is 5, test_evaluator.topk is 5" in said
    assert said.strip().endswith("add --cfg-options val_evaluator.topk=1 test_evaluator.topk=1")
    config = config.with_name("listed.py")
    config.write_text(CONFIG + 'val_evaluator = [dict(type="Accuracy"), dict(type="Accuracy", topk=(1, 5))]')
    said = fail("train", config, *shared)
    assert said.strip().endswith("add --cfg-options val_evaluator.1.topk=1 test_evaluator.topk=1")


@pytest.mark.parametrize("stock", [False, True])
def test_missing_data_shows_the_tree_and_the_source(stock, config, tmp_path, fail):
    said = fail("train", STOCK if stock else config, "--data-root", tmp_path / "no", "--work-dir", tmp_path)
    for split in ("train", "val"):
        assert re.search(rf"{tmp_path}/no/{split} +<- missing", said)
    assert "https://image-net.org/download.php" in said
    assert "data/imagenet/train/n01440764/*.JPEG" in said
