"""Configs, their models without memory, and their optimiser settings; for the tests of configs."""

import copy
from functools import cache
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from tool_runs import ROOT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

NARROW_HEADS = {  # options for Mask R-CNN behind a pyramid of 16 channels
    "model.rpn_head.in_channels": 16,
    "model.rpn_head.feat_channels": 16,
    "model.roi_head.bbox_roi_extractor.out_channels": 16,
    "model.roi_head.bbox_head.in_channels": 16,
    "model.roi_head.bbox_head.conv_out_channels": 16,
    "model.roi_head.bbox_head.fc_out_channels": 32,
    "model.roi_head.mask_roi_extractor.out_channels": 16,
    "model.roi_head.mask_head.in_channels": 16,
    "model.roi_head.mask_head.conv_out_channels": 16,
}


def names(pattern: str) -> list[str]:
    """Names of the configs that match, without ``.py``."""
    return sorted(file.stem for file in (ROOT / "configs").glob(f"{pattern}.py"))


def path(name: str) -> Path:
    return ROOT / "configs" / f"{name}.py"


@cache
def read(name: str) -> Config:
    return Config.fromfile(path(name))


def model_settings(name: str) -> ConfigDict:
    """A copy of the model's settings, with mmpretrain's data preprocessor, as the runner builds it."""
    cfg = copy.deepcopy(read(name))
    if "data_preprocessor" in cfg:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    return cfg.model


def build_on_meta(settings: ConfigDict, scope: str) -> nn.Module:
    init_default_scope(scope)
    with torch.device("meta"):
        return MODELS.build(settings).eval()


@cache
def build(name: str) -> nn.Module:
    """The config's model on the meta device."""
    return build_on_meta(model_settings(name), read(name).default_scope)


@cache
def optimizer_settings(name: str) -> dict[str, tuple[float, float]]:
    """{parameter: (learning rate, weight decay)} of a config."""
    model = build(name)
    wrapper = {**read(name).optim_wrapper, "type": "OptimWrapper"}  # AMP needs a GPU
    wrapper.pop("loss_scale", None)
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    by_parameter = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    return {name: by_parameter[id(p)] for name, p in model.named_parameters() if id(p) in by_parameter}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def gmacs(function, height: int, width: int) -> float:
    """Multiply-accumulates of a function of an image, in billions."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(torch.zeros(1, 3, height, width, device="meta"))
    return counter.get_total_flops() / 2e9  # the counter counts a multiplication and an addition as two
