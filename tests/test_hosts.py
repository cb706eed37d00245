"""Every backbone in the hosts' stock configs: the table of docs/HOSTS.md, cell by cell."""

import re

import pytest
from archs import small_arch
from conftest import ROOT
from mmengine.registry import MODELS

from backbones.base import DenseBackbone
from backbones.cli.drop_in import load_stock
from backbones.config.swap import swap_backbone
from backbones.config.trial import try_model
from backbones.config.write import delta

# of the hosts' own code
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


def table() -> dict[tuple[str, str], tuple[int, ...]]:
    """(stock config, backbone) -> strides read."""
    lines = (ROOT / "docs" / "HOSTS.md").read_text().splitlines()
    head, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return {
        (row[0], backbone): tuple(map(int, cell.split()))
        for row in rows
        for backbone, cell in zip(head[1:], row[1:], strict=True)
    }


CELLS = table()


def test_table_has_every_backbone_and_host():
    registered = {name for name, cls in MODELS.module_dict.items() if issubclass(cls, DenseBackbone)}
    assert {backbone for _, backbone in CELLS} == registered
    assert {config.partition("::")[0] for config, _ in CELLS} == {"mmdet", "mmseg", "mmpretrain"}
    assert len(CELLS) == 23 * len(registered)


def cells() -> list:
    """Every cell; the suite has RevCol's and one more of each row, another one in the next row."""
    others = sorted({backbone for _, backbone in CELLS} - {"RevCol"})
    rows = list(dict.fromkeys(config for config, _ in CELLS))
    suite = {(config, backbone) for i, config in enumerate(rows) for backbone in ("RevCol", others[i % len(others)])}
    return [pytest.param(*cell, marks=[] if cell in suite else pytest.mark.long) for cell in CELLS]


@pytest.mark.parametrize(("config", "backbone"), cells(), ids=lambda name: name.partition("/")[2] or name)
@pytest.mark.slow
def test_pair_trains_and_predicts(config, backbone):
    cfg = load_stock(config)
    changes = swap_backbone(cfg, backbone, dict(arch=small_arch(backbone)))
    others = {change.key for change in changes if not change.key.startswith(("model.", "optim_wrapper.", "data_pre"))}
    assert others <= {"param_scheduler"}
    cfg.merge_from_dict(delta(cfg, changes))
    net = MODELS.build({key: value for key, value in cfg.model.backbone.items() if key != "init_cfg"})
    assert net.strides == CELLS[config, backbone]
    seen = try_model(cfg, 256 if "dino" in config else 64)
    assert re.search(r"loss \d+\.\d+ on noise, .* prediction is a (Det|Seg|)DataSample", seen)
