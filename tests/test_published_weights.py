"""The table of docs/weights.md, row by row against timm; small and base models with real arithmetic."""

import ast
from functools import partial

import pytest
import timm
import torch
from mmengine.registry import MODELS
from safetensors.torch import save_file
from tool_runs import ROOT
from torch import nn

from backbones.base import DenseBackbone
from backbones.checkpoints import load_pretrained

LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "**DINOv3 licence**": "dinov3-license",
    "**non-commercial** (FAIR)": "fair-noncommercial-research-license",
    "**non-commercial** (CC BY-NC 4.0)": "cc-by-nc-4.0",
}


def table() -> dict[str, tuple[str, str, str]]:
    """Repository -> backbone, parameters, licence."""
    lines = (ROOT / "docs" / "weights.md").read_text().splitlines()
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return {row[1]: (row[2], row[3], row[4]) for row in rows[2:]}


ROWS = table()


def build(call: str, **kwargs) -> DenseBackbone:
    """The backbone of a table's ``Name("arch", key=value)``."""
    node = ast.parse(call, mode="eval").body
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
    return MODELS.get(f"backbones.{node.func.id}")(ast.literal_eval(node.args[0]), **given, **kwargs)


def build_timm(repository: str, **kwargs) -> nn.Module:
    return timm.create_model(repository.partition("/")[2], num_classes=0, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("repository", ROWS)
def test_row_is_a_model_of_timm_with_its_parameters_and_licence(repository):
    call, parameters, licence = ROWS[repository]
    cfg = timm.get_pretrained_cfg(repository.partition("/")[2])
    assert (cfg.hf_hub_id, cfg.license) == (repository, LICENCES[licence])
    with torch.device("meta"):
        ours, theirs = build(call, pyramid=None), build_timm(repository)
    assert f"{sum(p.numel() for p in ours.parameters()):,}" == parameters
    others = ("attn_pool.", "fc_norm.", *(["norm."] if ours.norm is None else []))  # of the classifier
    wanted = sum(p.numel() for name, p in theirs.named_parameters() if not name.startswith(others))
    if "registers" in call:
        wanted += ours.embed_dims  # timm adds the position of the class token to it
    assert sum(p.numel() for p in ours.parameters()) == wanted


@pytest.mark.long
@pytest.mark.parametrize(
    "repository",
    [
        "timm/vit_small_patch14_dinov2.lvd142m",
        "timm/vit_base_patch14_dinov2.lvd142m",
        "timm/vit_base_patch14_reg4_dinov2.lvd142m",
        "timm/vit_small_patch16_dinov3_qkvb.lvd1689m",
        "timm/vit_small_plus_patch16_dinov3_qkvb.lvd1689m",
        "timm/vit_base_patch16_dinov3_qkvb.lvd1689m",
        "timm/vit_base_patch16_siglip_256.v2_webli",
        "timm/eva02_small_patch14_224.mim_in22k",
        "timm/eva02_base_patch14_224.mim_in22k",
        "timm/beit_base_patch16_224.in22k_ft_in22k",
        "belfner/vit_small_patch16_lingbot.robbyant",
        "timm/vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m",
        "timm/vit_base_patch14_reg1_tipsv2.webli",
    ],
)
def test_taps_of_small_and_base_models_equal_timm_at_their_own_size(repository, tmp_path):
    # timm's B/16 has the exact GELU, the authors and ours the approximation by tanh.
    theirs = draw(build_timm(repository, **(dict(act_layer="gelu_tanh") if "siglip" in repository else {}))).eval()
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    ours = build(ROWS[repository][0], pyramid=None, taps=(3, 7, 11)).eval()
    report = load_pretrained(ours, tmp_path / "timm.safetensors")
    assert report.complete
    x = torch.randn(1, *timm.get_pretrained_cfg(repository.partition("/")[2]).input_size)
    read = partial(theirs.forward_intermediates, indices=[3, 7, 11], intermediates_only=True)
    with torch.no_grad():
        for a, b in zip(ours(x), read(x, norm=ours.norm is not None), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def draw(model: nn.Module) -> nn.Module:
    """Layer scales, biases, tables and norms for which every term counts; matrices stay as they start."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif "gamma" in name:
                parameter.uniform_(0.1, 0.5)
            elif parameter.ndim == 1 or "pos_embed" in name or "token" in name or "table" in name:
                parameter.normal_(std=0.2)
    return model
