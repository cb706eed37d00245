"""LoRA by peft on every backbone: the recipe of docs/learn/start-weights.md."""

import copy
import re

import pytest
import torch
from archs import small_arch
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from tool_runs import ROOT
from torch import nn

from backbones import DINOv2
from backbones.base import DenseBackbone

peft = pytest.importorskip("peft")

BACKBONES = {name: cls for name, cls in MODELS.module_dict.items() if issubclass(cls, DenseBackbone)}
PAGE = (ROOT / "docs" / "learn" / "start-weights.md").read_text()


def recipe(backbone: nn.Module) -> nn.Module:
    """Runs the page's lines."""
    (code,) = re.findall(r"```python\n(from peft.*?)```", PAGE, flags=re.DOTALL)
    names = {"backbone": backbone}
    exec(code, names)
    return names["backbone"]


def build(name: str) -> tuple[DenseBackbone, nn.Module]:
    """A backbone whose every term counts, and the same with LoRA, whose matrices are no longer zero."""
    net = BACKBONES[name](small_arch(name))
    for parameter_name, p in net.named_parameters():
        if parameter_name.endswith(("gamma", "gamma_1", "gamma_2", "norm1.weight", "norm2.weight")):  # some start at 0
            nn.init.uniform_(p, 0.2, 1.0)
    lora = recipe(copy.deepcopy(net))
    for parameter_name, p in lora.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(p, std=0.05)
    return net.eval(), lora.eval()


def pyramid(net: DenseBackbone) -> list[nn.Parameter]:
    return [p for name, p in net.named_parameters() if name.startswith("pyramid.")]


def total(maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A scalar with different weights of all values."""
    return sum((m * torch.linspace(-1, 1, m.numel()).view(m.shape)).sum() for m in maps)


def gradients(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor | None]:
    net.zero_grad()
    total(net(x)).backward()
    return {name: p.grad for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", BACKBONES)
def test_only_low_ranks_and_the_pyramid_get_gradients_in_every_memory_mode(name):
    net, lora = build(name)
    base, x = lora.get_base_model(), torch.randn(2, 3, 64, 64)
    trained = {name for name, p in lora.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        name for name, _ in lora.named_parameters() if ".pyramid.modules_to_save." in name
    }
    assert any("modules_to_save" in name for name in trained) == any(p.requires_grad for p in pyramid(net))
    adapted = {re.sub(r"base_model\.model\.|\.lora_A.*", "", name) for name in trained if "lora_A" in name}
    linears = {key for key, module in net.named_modules() if isinstance(module, nn.Linear)}
    assert adapted <= linears
    # between levels and columns, and between heads, whose matrices are small
    assert all(re.search(r"\.fusion\.|\.proj_[lw]$", key) for key in linears - adapted)
    wanted = gradients(lora, x)
    assert all(grad is not None and grad.any() for grad in wanted.values())
    for mode, attributes in list(base.memory_modes().items())[1:]:
        for key, value in attributes.items():
            setattr(base, key, value)
        got = gradients(lora, x)
        for key, grad in wanted.items():
            tolerance = 1e-4 * grad.abs().max().item()
            torch.testing.assert_close(got[key], grad, rtol=0, atol=tolerance, msg=f"{mode}: {key}")


@pytest.mark.parametrize("name", BACKBONES)
def test_merged_weights_give_the_same_maps(name):
    net, lora = build(name)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        plain, wanted = net(x), lora(x)
        merged = lora.merge_and_unload()
        got = merged(x)
    assert type(merged) is type(net)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * b.abs().max().item())
    assert (plain[-1] - wanted[-1]).abs().max() > 1e-3 * wanted[-1].abs().max()


def test_a_runner_leaves_weights_that_were_loaded_before_the_wrapping(tmp_path):
    """As ``Runner.train`` does, the model is initialised again."""
    net = DINOv2(small_arch("DINOv2"))
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    model = BaseModule()
    model.backbone = DINOv2(
        small_arch("DINOv2"), init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "weights.pth"))
    )
    model.init_weights()
    model.backbone = recipe(model.backbone)
    model.init_weights()
    merged = model.backbone.merge_and_unload().state_dict()
    assert merged.keys() == net.state_dict().keys()
    assert all(torch.equal(merged[name], value) for name, value in net.state_dict().items())


def test_layer_decay_sees_the_depths_of_the_wrapped_layers():
    model = nn.Module()
    model.backbone = build("DINOv2")[1]
    wrapper = dict(
        type="OptimWrapper",
        constructor="DenseLayerDecayOptimWrapperConstructor",
        optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.0),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    rates = {name: group["lr"] for group in groups for name in group["param_names"]}
    for i in range(4):
        assert {rate for name, rate in rates.items() if f".blocks.{i}." in name} == {0.5 ** (4 - i)}
    assert {rate for name, rate in rates.items() if ".pyramid." in name} == {1.0}
