"""What README shows works as shown."""

import re

import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import init_default_scope

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


@pytest.fixture
def config(tmp_path):
    """All python blocks of README as one config file."""
    file = tmp_path / "config.py"
    file.write_text("\n".join(BLOCKS))
    return Config.fromfile(file)


def test_the_lines_for_a_config_build_a_model_that_trains(config):
    from mmdet.registry import MODELS
    from mmengine.optim import build_optim_wrapper

    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    feats = model.extract_feat(torch.zeros(1, 3, 64, 64))
    assert [tuple(f.shape[1:]) for f in feats[:3]] == [(256, 8, 8), (256, 4, 4), (256, 2, 2)]
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    rates = {name: g["lr"] for g in wrapper.optimizer.param_groups for name in g["param_names"]}
    assert rates["backbone.stem.0.weight"] == pytest.approx(2e-4 * 0.85**14)
    assert rates["bbox_head.retina_cls.weight"] == pytest.approx(2e-4)


def test_the_vitdet_backbone_is_that_of_the_config(config):
    from mmengine.registry import MODELS

    recipe = Config.fromfile(ROOT / "configs" / "vit_maskrcnn_coco.py").model.backbone
    shown = dict(config.vitdet)
    assert shown.pop("type") == f"backbones.{recipe.type}"
    del shown["init_cfg"]
    assert {key: recipe[key] for key in shown} == shown
    with torch.device("meta"):
        MODELS.build({**config.vitdet, "init_cfg": None})


def test_every_file_that_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    paths = set(re.findall(r"(?<![\w./])(?:tools|configs|docs|tests)/[\w./-]+\.(?:py|sh|md|png|jpg)", text))
    assert len(paths) > 8
    assert sorted(p for p in paths if not (ROOT / p).is_file()) == []


def test_the_table_of_configs_is_complete():
    text = (ROOT / "README.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| `[\w-]+\.py`", line)]
    assert sorted(name for row in rows for name in re.findall(r"`([\w-]+\.py)`", row)) == sorted(
        file.name for file in (ROOT / "configs").glob("*.py")
    )
