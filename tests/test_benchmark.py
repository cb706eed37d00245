"""tools/benchmark.py: the compared models are the same function, and only measured sections are rewritten."""

import re

import pytest
import torch
from tool_runs import verb

from backbones import CaiT, DeepViT, DeiT, PlainViT
from backbones.benchmark import modern_vit, vit

pytestmark = pytest.mark.slow

ARCH = dict(embed_dims=48, depth=3, num_heads=4)


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (PlainViT, dict()),
        (PlainViT, dict(window_size=3, global_blocks=(1,), rel_pos=True)),
        (CaiT, dict()),
        (DeepViT, dict()),
    ],
    ids=["softmax", "relative positions in windows", "talking heads", "re-attention"],
)
def test_formulas_written_out_are_the_blocks(cls, kwargs):
    net = vit.draw_weights(cls(ARCH, img_size=(64, 96), **kwargs)).double().train()
    plain = vit.written_out(net)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    ours, theirs = net(x), plain(x)
    grads = [torch.randn_like(f) for f in ours]
    torch.autograd.backward(ours, grads)
    torch.autograd.backward(theirs, grads)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for (name, a), b in zip(net.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-7, atol=1e-7, msg=name)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # one cycle, nothing to clear
def test_section_is_measured_and_the_others_stay(monkeypatch, tmp_path):
    """The whole section with small models, which agree with timm's: it raises where they do not."""
    arch = dict(embed_dims=192, depth=2, num_heads=3)
    models = {
        "CaiT-S24": (CaiT, dict(arch, num_heads=4), "cait_xxs24_224"),
        "DeepViT-S": (DeepViT, arch, None),
        "DeiT-S": (PlainViT, arch, "deit_tiny_patch16_224"),
        "DeiT-S distilled": (DeiT, arch, "deit_tiny_distilled_patch16_224"),
    }
    monkeypatch.setattr(vit, "MODELS", models)
    monkeypatch.setattr(vit, "COMPILED", {})  # tests/test_compiled.py compiles
    page = tmp_path / "BENCHMARKS.md"
    kept = "## RevCol\n\nAs it was.\n\n### Memory\n\n| 1 |\n"
    page.write_text(f"# Benchmarks\n\n{kept}\n## Plain vision transformers\n\nFormer figures.\n")
    verb("benchmark", "vit", "--size=32", "--repeats=1", f"--out={tmp_path}")
    text = page.read_text()
    assert kept in text
    assert "Former" not in text
    assert re.findall("^## .*", text, flags=re.MULTILINE) == ["## RevCol", "## Plain vision transformers"]
    assert f"Written by `densebackbones benchmark vit --size=32 --repeats=1 --out={tmp_path}` on " in text
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    assert [rows.count(model) for model in models] == [4, 3, 4, 1]
    assert (tmp_path / "vit_memory.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_modern_families_are_measured_beside_timm(monkeypatch, tmp_path):
    """One narrow block each, of whole patches; the section raises where a model is not the function of timm's."""
    models = {
        model: (cls, cls.parse_arch(arch) | dict(embed_dims=192, num_heads=3, depth=1), name)
        for model, (cls, arch, name) in modern_vit.MODELS.items()
    }
    narrow = {model: modern_vit.ARGUMENTS.get(model, {}) | dict(embed_dim=192, num_heads=3) for model in models}
    monkeypatch.setattr(modern_vit, "MODELS", models)
    monkeypatch.setattr(modern_vit, "ARGUMENTS", narrow)
    monkeypatch.setattr(modern_vit, "WHOLE", (202,))
    verb("benchmark", "modern-vit", "--size=224", "--repeats=1", f"--out={tmp_path}")
    rows = [line.split(" | ") for line in (tmp_path / "BENCHMARKS.md").read_text().splitlines()]
    for model in models:
        *timed, block, frozen = (row for row in rows if row[0] == f"| {model}")
        assert [row[2:4] for row in timed] == [["196" if "14" in timed[0][1] else "208", "1"], ["224", "2"]]
        assert float(block[1]) > 0
        assert frozen[4] == "1.00"


def test_unknown_sections_are_named(fail):
    assert "no section ['vti']; choose from ['revcol', 'revcol-vit', 'vit', 'modern-vit']" in fail("benchmark", "vti")
