"""README: its Python runs, its commands parse, and the files it names exist."""

import argparse
import contextlib
import importlib
import io
import re
import shlex

import pytest
from conftest import ROOT
from mmengine.registry import MODELS

from backbones.base import DenseBackbone
from backbones.cli import verbs

TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = {"plot_run": "plot", "make_sample_coco": "sample-data"}
COMMAND = re.compile(r"(?:python|torchrun [\w=-]+) tools/(\w+)\.py([^\n`#|]*)|\bdensebackbones (?=[a-z])([^\n`#|]*)")


def test_readme_is_short():
    assert len(TEXT.splitlines()) <= 135


def test_the_python_block_prints_the_shapes_beside_it():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    shapes = re.findall(r"\(1, .*?\)", code.partition("# ")[2])
    assert printed.getvalue().splitlines() == shapes
    assert len(shapes) == 4


def test_every_backbone_has_a_row():
    names = {name for name, cls in MODELS.module_dict.items() if issubclass(cls, DenseBackbone)}
    assert set(re.findall(r"^\| `(\w+)` ", TEXT, flags=re.MULTILINE)) == names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text()
    paths = set(
        re.findall(r"(?<![\w./])(?:tools|configs|docs|tests|backbones)/[\w./-]+\.(?:py|sh|md|png|jpg|yml)", text)
    )
    assert sorted(path for path in paths if "FAMILY" not in path and not (ROOT / path).is_file()) == []
    links = {link for link in re.findall(r"\]\(([^)#]+)[)#]", text) if "://" not in link}
    assert sorted(link for link in links if not (page.parent / link).exists()) == []


def options_of(verb: str) -> set[str]:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"backbones.cli.{verb.replace('-', '_')}").add_arguments(parser)
    return {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_have_the_verbs_and_options_they_use(page):
    text = page.read_text().replace("\\\n", " ")
    for script, given, installed in COMMAND.findall(text):
        words = shlex.split(installed or given, posix=False)
        verb = words.pop(0) if installed else SCRIPTS.get(script, script.replace("_", "-"))
        assert verb in verbs(), (page.name, verb)
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= options_of(verb), (page.name, verb)
