"""The COCO configs: they parse, build, and have the published recipes and sizes."""

import pytest
from config_models import build, count, gmacs, optimizer_settings, read

CASCADE = {  # published: millions of parameters, GFLOPs (multiply-accumulates) at 1280x800
    "revcol": (88, 741),
    "revcol-small": (118, 833),
    "revcol-base": (196, 988),
    "revcol-large": (330, 1453),
}


def test_parameters_are_the_published_ones():
    counted = {name: round(count(build(f"{name}_cascade-maskrcnn_coco")) / 1e6) for name in CASCADE}
    assert counted == {name: parameters for name, (parameters, _) in CASCADE.items()}


def test_flops_between_sizes_are_the_published_ones():
    """Backbone and FPN; the heads are the same in all sizes, and the published totals count them."""
    counted = {name: gmacs(build(f"{name}_cascade-maskrcnn_coco").eval().extract_feat, 800, 1280) for name in CASCADE}
    assert {name: round(gmacs_ - counted["revcol"]) for name, gmacs_ in counted.items()} == {
        name: gflops - CASCADE["revcol"][1] for name, (_, gflops) in CASCADE.items()
    }


@pytest.mark.parametrize(
    ("name", "drop_path_rate", "lr", "layer_decay_rate"),
    [
        ("revcol_maskrcnn", 0.3, 2e-4, 0.85),
        ("revcol-vit_maskrcnn", 0.3, 2e-4, 0.85),  # taken over from it
        ("revcol_cascade-maskrcnn", 0.3, 2e-4, 0.85),
        ("revcol-small_cascade-maskrcnn", 0.4, 2e-4, 0.85),
        ("revcol-base_cascade-maskrcnn", 0.4, 2e-4, 0.9),
        ("revcol-large_cascade-maskrcnn", 0.5, 1e-4, 0.85),
    ],
)
def test_recipe_is_the_official_one(name, drop_path_rate, lr, layer_decay_rate):
    cfg = read(f"{name}_coco")
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
    settings = optimizer_settings("revcol_maskrcnn_coco")
    assert settings["backbone.stem.0.weight"] == pytest.approx(
        (2e-4 * 0.85**14, 0.05)
    )  # 8.7 in the paper's numbering: max id + 1
    assert settings["roi_head.bbox_head.fc_cls.weight"] == pytest.approx((2e-4, 0.05))
    assert {decay for name, (_, decay) in settings.items() if "alpha" in name} == {0.0}
