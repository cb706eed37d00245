"""The zoo: every config has a row, wrong figures are found, and every training keeps few checkpoints."""

import copy

import config_models
import pytest
from conftest import ROOT
from mmengine.registry import HOOKS

from backbones import zoo
from backbones.engine.resumable import make_resumable

# of the hosts' own code
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

MODELS = {model["Name"]: model for model in zoo.load()}


def test_every_config_has_a_row_and_every_row_a_config():
    assert sorted(model["Config"] for model in zoo.load()) == sorted(
        f"configs/{file.name}" for file in (ROOT / "configs").glob("*.py")
    )


def test_patterns_choose_rows():
    assert [model["Name"] for model in zoo.rows("revcol_imag*")] == ["revcol_imagenet"]
    assert all("flowers" in model["Name"] for model in zoo.rows("flowers"))
    assert zoo.rows("unknown") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_figures_are_those_of_the_config(name):
    assert zoo.check(MODELS[name]) == []


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_are_those_of_the_config(name):
    def checkpoints(settings):
        if isinstance(settings, dict):
            if settings.get("type") == "Pretrained":
                yield settings["checkpoint"]
            for value in settings.values():
                yield from checkpoints(value)

    cfg = config_models.read(name)
    found = {*checkpoints(cfg.model), cfg.get("load_from") or ""}
    stated = MODELS[name].get("Initial weights", {})
    assert {url for url in found if url.startswith("https:")} == ({stated["URL"]} if stated else set())


@pytest.mark.parametrize("name", MODELS)
def test_training_keeps_a_bounded_number_of_checkpoints_and_the_best(name):
    cfg = copy.deepcopy(config_models.read(name))
    make_resumable(cfg)
    hook = cfg.default_hooks.checkpoint
    assert hook.type == "SafeCheckpointHook"
    assert HOOKS.build(hook).max_keep_ckpts > 0
    assert hook.get("save_best") == ("auto" if cfg.get("val_dataloader") else None)


@pytest.mark.parametrize(("figure", "change"), [("Parameters", 1), ("FLOPs", -1)])
def test_a_wrong_figure_is_reported(figure, change):
    model = copy.deepcopy(MODELS["ceit-tiny_imagenet"])
    model["Metadata"][figure] += change
    (message,) = zoo.check(model)
    assert figure in message
