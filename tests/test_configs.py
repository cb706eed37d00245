"""The COCO configs: they parse, build, and have the published recipes and sizes."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch.utils.flop_counter import FlopCounterMode

CONFIGS = Path(__file__).parents[1] / "configs"
CASCADE = {  # published: millions of parameters, GFLOPs (multiply-accumulates) at 1280x800
    "revcol": (88, 741),
    "revcol-small": (118, 833),
    "revcol-base": (196, 988),
    "revcol-large": (330, 1453),
}


def load(name: str) -> Config:
    cfg = Config.fromfile(CONFIGS / f"{name}_coco.py")
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.fixture(scope="module")
def cascades() -> dict[str, torch.nn.Module]:
    with torch.device("meta"):
        return {name: MODELS.build(load(f"{name}_cascade-maskrcnn").model) for name in CASCADE}


def test_parameters_are_the_published_ones(cascades):
    counted = {name: round(sum(p.numel() for p in model.parameters()) / 1e6) for name, model in cascades.items()}
    assert counted == {name: parameters for name, (parameters, _) in CASCADE.items()}


def test_flops_between_sizes_are_the_published_ones(cascades):
    """Backbone and FPN; the heads are the same in all sizes, and the published totals count them."""

    def gmacs(model: torch.nn.Module) -> float:
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.extract_feat(torch.zeros(1, 3, 800, 1280, device="meta"))
        return counter.get_total_flops() / 2e9  # the counter counts a multiplication and an addition as two

    counted = {name: gmacs(model) for name, model in cascades.items()}
    assert {name: round(gmacs_ - counted["revcol"]) for name, gmacs_ in counted.items()} == {
        name: gflops - CASCADE["revcol"][1] for name, (_, gflops) in CASCADE.items()
    }


@pytest.mark.parametrize(
    ("name", "drop_path_rate", "lr", "layer_decay_rate"),
    [
        ("revcol_maskrcnn", 0.3, 2e-4, 0.85),
        ("revcol_cascade-maskrcnn", 0.3, 2e-4, 0.85),
        ("revcol-small_cascade-maskrcnn", 0.4, 2e-4, 0.85),
        ("revcol-base_cascade-maskrcnn", 0.4, 2e-4, 0.9),
        ("revcol-large_cascade-maskrcnn", 0.5, 1e-4, 0.85),
    ],
)
def test_recipe_is_the_official_one(name, drop_path_rate, lr, layer_decay_rate):
    cfg = load(name)
    assert cfg.model.backbone.drop_path_rate == drop_path_rate
    assert cfg.model.backbone.reversible is True
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.optimizer.type) == ("AmpOptimWrapper", "AdamW")
    assert (wrapper.optimizer.lr, wrapper.optimizer.weight_decay) == (lr, 0.05)
    assert wrapper.paramwise_cfg.layer_decay_rate == layer_decay_rate
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].milestones) == (36, [27, 33])
    assert cfg.custom_imports.imports == ["backbones"]
    if "cascade" in name:
        heads = cfg.model.roi_head.bbox_head
        assert [(h.num_shared_convs, h.num_shared_fcs, h.norm_cfg.type) for h in heads] == [(4, 1, "SyncBN")] * 3
        assert [(h.loss_bbox.type, h.loss_bbox.loss_weight) for h in heads] == [("GIoULoss", 10.0)] * 3


def test_optimizer_decays_learning_rates_by_depth_and_spares_alphas():
    cfg = load("revcol_maskrcnn")
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"}).optimizer  # AMP needs a GPU
    by_parameter = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    settings = {name: by_parameter[id(p)] for name, p in model.named_parameters()}
    assert settings["backbone.stem.0.weight"] == pytest.approx(
        (2e-4 * 0.85**14, 0.05)
    )  # 8.7 in the paper's numbering: max id + 1
    assert settings["roi_head.bbox_head.fc_cls.weight"] == pytest.approx((2e-4, 0.05))
    assert {decay for name, (_, decay) in settings.items() if "alpha" in name} == {0.0}
