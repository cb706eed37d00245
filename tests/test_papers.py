"""densebackbones papers: every comparison for a few steps, its measures, and runs that were finished or killed."""

import dataclasses
import json
import math
import multiprocessing
import signal
from pathlib import Path

import pytest
import torch
from small_run import Interruption
from tool_runs import ROOT, forget_visualizers, losses, verb

pytest.importorskip("mmpretrain")

from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample
from test_classification_tools import draw

from backbones.cli.papers import train
from backbones.papers import cait, ceit, comparisons, deepvit, hybrid_vit, load, mae, revcol, revcol_boxes, revcol_vit
from backbones.papers._figures import cell, table
from backbones.papers._runner import Runner
from backbones.usage import UsageError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Only use 'alpha' for pillow backend"),  # mmpretrain's ColorJitter, to mmcv
]

_ONE_COLUMN = dict(COLUMNS=(1,), EQUAL_MACS={2: 8}, WIDTH=8)
SMALL: dict[str, tuple] = {  # a module, and constants that make its comparison tiny
    "deepvit": (deepvit, dict(DEPTHS=(2,), WIDE_DEPTHS=(2,))),
    "cait": (cait, dict(SCALES={2: 0.1})),
    "ceit": (ceit, dict()),
    "hybrid-vit": (hybrid_vit, dict(EPOCHS=(2,))),
    "mae": (mae, dict()),
    "revcol": (revcol, dict(_ONE_COLUMN, SUPERVISED=(4,), MEMORY_COLUMNS=(1, 2))),
    "revcol-boxes": (revcol_boxes, dict(_ONE_COLUMN, IMAGES=4, HELD_OUT=2)),
    "revcol-vit": (revcol_vit, dict(DEPTHS=(1, 1, 1, 1), COLUMNS=1, VIT_DEPTH=1)),
}
SUITE = ("cait",)
ONE_EPOCH = ["train_cfg.max_epochs=1", "train_cfg.val_interval=1", "default_hooks.checkpoint.interval=1"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "drawn", 2, 1)


def papers(name: str, photographs: Path, folder: Path) -> list[dict]:
    """Runs the verb for an epoch of two images a class, and gives its results."""
    arguments = [f"--data-root={photographs}", f"--work-dir={folder / 'runs'}", f"--out={folder / 'out'}"]
    verb("papers", name, *arguments, "--seeds", 0, "--cfg-options", *ONE_EPOCH)
    assert (folder / "out" / f"{name}.png").stat().st_size > 10_000
    return json.loads((folder / "out" / f"{name}.json").read_text())["runs"]


def test_every_comparison_has_a_small_version():
    assert comparisons().keys() == SMALL.keys()
    assert all("(arXiv:" in line for line in comparisons().values())


@pytest.mark.parametrize(
    "name", [name if name in SUITE else pytest.param(name, marks=pytest.mark.long) for name in SMALL]
)
def test_a_few_steps(name, monkeypatch, photographs, tmp_path, capsys):
    module, constants = SMALL[name]
    for constant, value in constants.items():
        monkeypatch.setattr(module, constant, value)
    results = papers(name, photographs, tmp_path)
    assert [(r["series"], r["x"]) for r in results] == [(run.series, run.x) for run in load(name).runs()]
    for result in results:
        assert result["seconds"] > 0
        assert math.isfinite(result["loss"])
        assert result["diverged"] is None
        assert [epoch for epoch, _ in result["curve"]] == ([] if result["series"] == mae.PRETRAINING else [1])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(results)


# ---------------------------------------------------------------------------------------------------------------- runs
def shortest(folder: Path, photographs: Path, *options: str) -> dict:
    """The result of the shortest training of a comparison."""
    forget_visualizers()
    whole = load("hybrid-vit")
    comparison = dataclasses.replace(whole, runs=lambda: whole.runs()[:1])
    ((result,),) = Runner(train, folder, str(photographs), options).results(comparison, [0])
    return result


def test_a_killed_run_goes_on_and_a_finished_one_is_not_repeated(photographs, tmp_path):
    options = ["train_cfg.max_epochs=3", *ONE_EPOCH[1:]]

    def killed():
        Interruption("renaming", "epoch_2.pth").listen()
        shortest(tmp_path / "killed", photographs, *options)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    result = shortest(tmp_path / "killed", photographs, *options)
    assert [list(run) for run in losses(tmp_path / "killed" / "ViT-10" / "seed-0")] == [[1, 2], [2, 3]]  # epochs
    other = shortest(tmp_path / "whole", photographs, *options)
    assert [epoch for epoch, _ in result["curve"]] == [1, 2, 3]
    assert (result["curve"], result["loss"]) == (other["curve"], other["loss"])

    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").rglob("*")}
    assert shortest(tmp_path / "killed", photographs, *options) == json.loads(json.dumps(result))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").rglob("*")} == before

    with pytest.raises(UsageError, match="seed-0 holds a run with other settings .densebackbones train .* remove"):
        shortest(tmp_path / "killed", photographs, *ONE_EPOCH)


def test_photographs_must_be_named(fail):
    assert "--data-root" in fail("papers", "cait")


def test_a_run_that_diverges_is_a_result(photographs, tmp_path):
    options = ["train_dataloader.batch_size=2", "optim_wrapper.optimizer.lr=1e38"]
    result = shortest(tmp_path, photographs, *ONE_EPOCH, *options)
    assert "nan" in result["diverged"].lower()
    assert result["curve"] == []


# ------------------------------------------------------------------------------------------------------------ measures
def test_gradients_enter_blocks_that_do_nothing_as_they_leave_them():
    init_default_scope("mmpretrain")
    settings = dict(
        type="DenseClassifier",
        backbone=dict(
            type="CaiTTrunk", arch=dict(embed_dims=24, depth=3, num_heads=2, layer_scale_init_value=0.0), img_size=64
        ),
        head=dict(type=cait.PlainCaiTHead, num_classes=3),
    )
    model = MODELS.build(settings).eval()
    samples = [DataSample().set_gt_label(i) for i in (0, 2)]
    images = torch.randn(2, 3, 64, 64)
    norms = cait.measure(model, images, samples)["gradients"]
    assert len(norms) == 3
    assert norms[0] == norms[1] == norms[2] > 0
    for block in model.backbone.blocks:
        torch.nn.init.ones_(block.gamma_1)
    assert len(set(cait.measure(model, images, samples)["gradients"])) == 3
    assert all(p.grad is None for p in model.parameters())
    assert not [n for n, p in model.head.named_parameters() if "gamma" in n and p.requires_grad]


def test_gradients_of_the_memory_modes_err_more_the_more_columns_are_undone():
    init_default_scope("mmpretrain")
    settings = dict(
        type="DenseClassifier",
        backbone=dict(type="RevCol", arch=revcol.arch(8, 8)),
        head=dict(type="RevColHead", num_classes=3),
    )
    model = MODELS.build(settings).eval()
    with torch.no_grad():
        for column in model.backbone.columns:
            for alpha in column.alphas:
                alpha.fill_(0.2)
    samples = [DataSample().set_gt_label(i) for i in (0, 2)]
    errors = revcol.gradient_errors(model, torch.randn(2, 3, 64, 64), samples)
    assert max(errors["plain"], errors["keep_every=1"]) < 1e-5
    assert errors["keep_every=8"] > 30 * errors["keep_every=1"]
    assert not model.backbone.reversible


def test_parts_of_ceit_are_left_out_one_at_a_time():
    arch = dict(embed_dims=24, depth=2, num_heads=2)

    def parts(cls) -> tuple[bool, bool]:
        net = cls(arch, img_size=64)
        net(torch.zeros(1, 3, 64, 64))
        return hasattr(net.i2t, "backbone"), hasattr(net.blocks[1], "leff")

    assert [parts(cls) for cls in (ceit.CeiTTrunk, ceit.PlainPatches, ceit.PlainFeedForward)] == [
        (True, True),
        (False, True),
        (True, False),
    ]


def test_epochs_to_an_accuracy_are_the_first_that_reach_it():
    assert ceit.epochs_to_reach(dict(curve=[(2, 49.0), (4, 50.0), (6, 40.0), (8, 60.0)])) == 4
    assert math.isnan(ceit.epochs_to_reach(dict(curve=[(2, 49.0)])))


def test_table_has_mean_and_spread_of_the_seeds():
    results = [dict(series="a", x=1, v=1.0), dict(series="b", x=None, v=math.nan), dict(series="a", x=1, v=2.0)]
    rows = table(results, {"value": lambda result: result["v"]}).splitlines()[2:]
    assert rows == ["| a, 1 | 1.5 (1 to 2) |", "| b | - |"]
    assert cell([2.0, 2.001]) == "2"


# ---------------------------------------------------------------------------------------------------------------- page
@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "papers").glob("*.json")), ids=lambda file: file.stem)
def test_page_has_the_table_of_the_results_and_the_figure(file):
    page = (ROOT / "docs" / "PAPERS.md").read_text()
    assert table(json.loads(file.read_text())["runs"], load(file.stem).columns) in page
    assert f"](papers/{file.stem}.png)" in page
    assert file.with_suffix(".png").is_file()
