"""The zoo: every config has a row, and wrong figures are found."""

import copy

import pytest
from conftest import ROOT

from backbones import zoo

CHECKED = ["revcol_imagenet", "cait-xxs24_imagenet", "ceit-tiny_imagenet"]


def test_every_config_has_a_row_and_every_row_a_config():
    assert sorted(model["Config"] for model in zoo.load()) == sorted(
        f"configs/{file.name}" for file in (ROOT / "configs").glob("*.py")
    )


def test_patterns_choose_rows():
    assert [model["Name"] for model in zoo.rows("revcol_imag*")] == ["revcol_imagenet"]
    assert all("flowers" in model["Name"] for model in zoo.rows("flowers"))
    assert zoo.rows("unknown") == []


@pytest.mark.parametrize("name", CHECKED)
def test_figures_are_those_of_the_config(name):
    (model,) = [model for model in zoo.load() if model["Name"] == name]
    assert zoo.check(model) == []


@pytest.mark.parametrize(("figure", "change"), [("Parameters", 1), ("FLOPs", -1)])
def test_a_wrong_figure_is_reported(figure, change):
    (model,) = (copy.deepcopy(model) for model in zoo.load() if model["Name"] == "ceit-tiny_imagenet")
    model["Metadata"][figure] += change
    (message,) = zoo.check(model)
    assert figure in message
