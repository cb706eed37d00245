"""Plain vision transformers against timm and against their formulas written out: memory, training, evaluation.

The compared models share their weights and all but their blocks.
"""

import argparse
import copy
from functools import partial
from typing import Any, TypeVar, cast

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import CaiT, DeepViT, DeiT, HybridViT, PlainViT
from backbones.benchmark.measure import (
    Net,
    images,
    inference,
    memory_picture,
    paired_seconds,
    peak_mib,
    ratio,
    slope,
    table,
    training_step,
)
from backbones.benchmark.runtimes import beside_onnxruntime
from backbones.cait import TalkingHeadAttention
from backbones.deepvit import ReAttention
from backbones.dense_transformer import DenseTransformer
from backbones.engine import compile_inference
from backbones.layers import Attention, Mlp

HEADING = "Plain vision transformers"
DEFAULTS: dict[str, Any] = dict(size=512, batch=1, repeats=3)
TOLERANCE = 1e-4  # of the largest value
OURS, PLAIN, TIMM = "ours", "formula written out", "timm"
MODELS: dict[str, tuple[type[DenseTransformer], str | dict[str, Any], str | None]] = {  # class, arch, name in timm
    "CaiT-S24": (CaiT, "s24", "cait_s24_224"),
    "DeepViT-S": (DeepViT, "s", None),
    "DeiT-S": (PlainViT, "small", "deit_small_patch16_224"),
    "DeiT-S distilled": (DeiT, "small", "deit_small_distilled_patch16_224"),
    "R26+ViT-S/32": (HybridViT, "r26-small-32", "vit_small_r26_s32_224"),
}
BESIDE_ONNXRUNTIME = ("ViT-B",)  # of COMPILED
COMPILED: dict[str, tuple[type[DenseTransformer], str | dict[str, Any]]] = {
    "ViT-B": (PlainViT, "base"),
    **{model: MODELS[model][:2] for model in ("CaiT-S24", "DeepViT-S")},
}
FEW = (1, 2)  # blocks between which the memory of one is measured
BLOCKS = 24  # of CaiT-S24
TRAINED = ("CaiT-S24", "DeepViT-S", "DeiT-S")
Drawn = TypeVar("Drawn", bound=nn.Module)


def measure(args: argparse.Namespace, device: torch.device) -> list[str]:
    """Lines of the section. Times at ``args.size`` pixels, memory and single blocks at twice that side."""
    x = torch.randn(args.batch, 3, args.size, args.size, device=device)
    large = torch.randn(args.batch, 3, 2 * args.size, 2 * args.size, device=device)
    # Evaluation first: as in a fresh process, whose allocator no training has warmed up.
    parts = [
        evaluation(args, device, x),
        compiled(args, device, x),
        *beside(args, x.cpu()),
        training(args, device, x, large),
        memory(args, device, large),
    ]
    return [line for part in parts for line in [*part, ""]]


def plain_attention(attention: Attention, x: Tensor, grid: tuple[int, int], rotation: None = None) -> Tensor:
    """``Attention.forward`` and its subclasses' with the scores of all heads and token pairs, as in the papers."""
    qkv = F.linear(x, attention.qkv.weight, attention.qkv.bias).unflatten(2, (3, attention.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, h, N, d)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)  # (B, h, N, N)
    if attention.has_rel_pos:
        scores = add_relative_positions(scores, q, attention, grid)
    if isinstance(attention, TalkingHeadAttention):
        maps = mix_heads(mix_heads(scores, attention.proj_l).softmax(-1), attention.proj_w)
    elif isinstance(attention, ReAttention):
        maps = attention.var_norm(attention.reatten_matrix(scores.softmax(-1))) * attention.map_scale
    else:
        maps = scores.softmax(-1)
    return F.linear((maps @ v).transpose(1, 2).flatten(2), attention.proj.weight, attention.proj.bias)


def mix_heads(maps: Tensor, mix: nn.Linear) -> Tensor:
    """The linear layer over the heads of ``(B, h, N, N)``."""
    return mix(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def add_relative_positions(scores: Tensor, q: Tensor, attention: Attention, grid: tuple[int, int]) -> Tensor:
    """Adds to each score the products of its query with the tables, whose size must be the grid's."""
    rows, columns = (torch.arange(n, device=q.device) for n in grid)
    table_h = attention.rel_pos_h[rows[:, None] - rows + grid[0] - 1]  # (rows, rows, d)
    table_w = attention.rel_pos_w[columns[:, None] - columns + grid[1] - 1]
    q = q.unflatten(2, grid)
    bias_h = torch.einsum("bhrcd,rkd->bhrck", q, table_h)[..., :, None]
    bias_w = torch.einsum("bhrcd,ckd->bhrck", q, table_w)[..., None, :]
    return (scores.unflatten(3, grid).unflatten(2, grid) + bias_h + bias_w).view_as(scores)


def plain_mlp(mlp: Mlp, x: Tensor) -> Tensor:
    """``Mlp.forward``."""
    return F.linear(F.gelu(F.linear(x, mlp.fc1.weight, mlp.fc1.bias)), mlp.fc2.weight, mlp.fc2.bias)


def written_out(net: DenseTransformer) -> DenseTransformer:
    """A copy of ``net`` whose blocks compute the formulas."""
    net = copy.deepcopy(net)
    for block in cast(Any, net.blocks):
        block.attn.forward = partial(plain_attention, block.attn)
        block.mlp.forward = partial(plain_mlp, block.mlp)
    return net


def with_timm_blocks(net: DenseTransformer, name: str) -> DenseTransformer:
    """A copy of ``net`` whose blocks are those of a model of timm."""
    reference = cast(Any, timm.create_model(name, depth=net.depth, num_classes=0))
    net, weights = copy.deepcopy(net), net.state_dict()
    net.blocks = reference.blocks.to(next(net.parameters()).device).train(net.training)
    net.load_state_dict(weights)  # the names are the same
    for block in cast(Any, net.blocks):
        block.forward = lambda x, grid, scales, rotation, forward=block.forward: forward(x)
    return net


def timm_trunk(net: DenseTransformer, name: str) -> Net:
    """A whole model of timm with the weights of ``net``, up to the map that ``net`` returns with ``pyramid=None``."""
    reference = cast(Any, timm.create_model(name, img_size=net.img_size, depth=net.depth, num_classes=0))
    reference.norm = nn.Identity()
    reference.blocks_token_only = nn.ModuleList()  # CaiT's class attention
    reference.load_state_dict({**reference.state_dict(), **net.state_dict()})  # our CaiT has no class token
    reference.to(next(net.parameters()).device).train(net.training)

    def forward(x: Tensor) -> list[Tensor]:
        tokens = reference.forward_features(x)[:, reference.num_prefix_tokens :]
        return [tokens.transpose(1, 2).unflatten(2, net.pos_grid)]

    return forward


def build(model: str, size: int, device: torch.device, depth: int | None = None, **kwargs: Any) -> DenseTransformer:
    """A preset in training mode with drawn weights. With ``depth`` that many equal blocks: in DeepViT all re-attend."""
    cls, arch, _ = MODELS[model]
    arch = cls.parse_arch(arch)
    if depth is not None:
        arch |= dict(depth=depth) | (dict(apply_transform=None) if cls is DeepViT else {})
    net = draw_weights(cls(arch, img_size=size, **kwargs)).to(device)
    net.train()  # norm_eval acts here
    return net


def draw_weights(net: Drawn) -> Drawn:
    """Weights for which every term counts: fresh ones start LayerScale and relative positions close to nothing."""
    for p in net.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
        else:
            nn.init.uniform_(p, 0.5, 1.0)
    return net


def writings(net: DenseTransformer, timm_name: str | None) -> dict[str, DenseTransformer]:
    """Ours, then those it is compared with."""
    nets = {OURS: net, PLAIN: written_out(net)}
    if timm_name:
        nets[TIMM] = with_timm_blocks(net, timm_name)
    return nets


def check_equal(ours: Net, other: Net, x: Tensor) -> None:
    """Raises unless the maps agree."""
    with torch.no_grad():
        for a, b in zip(ours(x), other(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE * b.abs().max().item())


def evaluation(args: argparse.Namespace, device: torch.device, x: Tensor) -> list[str]:
    """Whole trunks without gradients against timm's ``forward_features``."""
    pairs = 3 * args.repeats  # a forward is short, and the ratios lie close to 1
    rows = []
    for model, (_, _, name) in MODELS.items():
        if name is None:
            continue
        net = build(model, args.size, device, pyramid=None).eval()
        reference = timm_trunk(net, name)
        check_equal(net, reference, x)
        ours, timms = paired_seconds([inference(net, x), inference(reference, x)], pairs)
        rows.append((model, f"`{name}`", ratio(ours, timms)))
        print(*rows[-1], flush=True)
    return [
        "### Time of evaluation, relative to timm",
        "",
        f"{images(x)}, float32, `pyramid=None` against `forward_features` without the final norm and, in CaiT, without "
        f"the class attention; time of ours over timm's, median of {pairs} pairs (smallest to largest). DeiT-S "
        "is ViT-S.",
        "",
        *table(("model", "in timm", "ours / timm"), rows, names=2),
    ]


def compiled(args: argparse.Namespace, device: torch.device, x: Tensor) -> list[str]:
    """Compiled against eager inference, with the default pyramid."""
    rows = []
    for name, (cls, arch) in COMPILED.items():
        net = draw_weights(cls(arch, img_size=args.size)).to(device).eval()
        torch.compiler.reset()
        function = compile_inference(net)
        check_equal(function, net, x)
        ours, eager = paired_seconds([inference(function, x), inference(net, x)], 3 * args.repeats)
        rows.append((name, ratio(ours, eager)))
        print(*rows[-1], flush=True)
    return [
        "### Time of compiled inference, relative to eager",
        "",
        f"{images(x)}, float32, `backbones.engine.compile_inference`; median of {3 * args.repeats} pairs (smallest to "
        "largest). RevCol's is in its own section.",
        "",
        *table(("model", "compiled / eager"), rows),
    ]


def beside(args: argparse.Namespace, x: Tensor) -> list[list[str]]:
    """Eager, compiled and onnxruntime's inference, with the default pyramid."""
    chosen = {name: COMPILED[name] for name in BESIDE_ONNXRUNTIME if name in COMPILED}
    return [
        beside_onnxruntime(name, draw_weights(cls(arch, img_size=args.size)).eval(), x, 3 * args.repeats)
        for name, (cls, arch) in chosen.items()
    ]


def training(args: argparse.Namespace, device: torch.device, x: Tensor, large: Tensor) -> list[str]:
    """Forward and backward of the trunks against the other writings."""
    cases: list[tuple[str, str | None, DenseTransformer, Tensor]] = []
    for model in TRAINED:
        cases.append((model, MODELS[model][2], build(model, args.size, device, pyramid=None), x))
        few = build(model, 2 * args.size, device, depth=1, pyramid=None)
        cases.append((f"{model}, one block", MODELS[model][2], few, large))
    vitdet = PlainViT(
        {**PlainViT.parse_arch("base"), "depth": 3},
        img_size=2 * args.size,
        window_size=14,
        global_blocks=(-1,),
        rel_pos=True,
        pyramid=None,
    )
    name = "ViTDet-B, two blocks with windows of 14 x 14, one global"
    cases.append((name, None, draw_weights(vitdet).to(device), large))
    rows = []
    for name, timm_name, net, image in cases:
        nets = writings(net, timm_name)
        for other in list(nets.values())[1:]:
            check_equal(net, other, image)
        steps = [training_step(own, image, list(own.parameters())) for own in nets.values()]
        seconds = dict(zip(nets, paired_seconds(steps, args.repeats), strict=True))
        ratios = [ratio(seconds[OURS], seconds[w]) if w in seconds else "-" for w in (PLAIN, TIMM)]
        rows.append((name, f"{image.shape[2]}", *ratios))
        print(*rows[-1], flush=True)
    return [
        "### Time of a training step, relative to other writings",
        "",
        f"{images(x)} or twice that side, float32, forward and backward, `pyramid=None`; time of ours over the "
        f"other's, median of {args.repeats} pairs (smallest to largest). All writings share their weights and agree to "
        "1e-4 of the largest value. Written out, a block holds the scores of all heads and all pairs of tokens, and "
        "ViTDet's relative positions are added to them. timm has neither DeepViT nor relative positions of this kind.",
        "",
        *table(("model", "pixels", f"ours / {PLAIN}", f"ours / {TIMM}"), rows),
    ]


def memory(args: argparse.Namespace, device: torch.device, x: Tensor) -> list[str]:
    """Tables and picture over the number of blocks."""

    def peak(net: DenseTransformer) -> float:
        return peak_mib(training_step(net, x, list(net.parameters()), keep_grads=True), device)

    lines: dict[str, dict[int, float]] = {}
    rows = []
    for model in TRAINED:
        for depth in FEW:
            for writing, net in writings(build(model, x.shape[2], device, depth), MODELS[model][2]).items():
                lines.setdefault(f"{model}, {writing}", {})[depth] = peak(net)
        own = [lines.get(f"{model}, {writing}") for writing in (OURS, PLAIN, TIMM)]
        rows.append((model, *(f"{slope(points):.0f}" if points else "-" for points in own)))
        print(*rows[-1], flush=True)

    whole = []
    for model, kwargs in (*((model, {}) for model in TRAINED), ("DeepViT-S", dict(norm_eval=True))):
        net = build(model, x.shape[2], device, **kwargs)
        value = peak(net)
        whole.append((", ".join([model, *(f"{k}={v}" for k, v in kwargs.items())]), f"{net.depth}", f"{value:.0f}"))
        print(*whole[-1], flush=True)
        if model == "CaiT-S24":  # all its blocks are of one kind
            lines[f"{model}, {OURS}"][net.depth] = value

    picture = {name: points for name, points in lines.items() if not name.startswith("DeiT")}
    memory_picture(args.out / "vit_memory.png", picture, "blocks", until=BLOCKS)
    timms = lines[f"CaiT-S24, {TIMM}"]
    return [
        "### Memory of a training step (MiB)",
        "",
        f"{images(x)}, float32; forward and backward with the simple pyramid, weights and their gradients not counted. "
        "Memory of each further block, from models of one and two blocks (DeepViT: with re-attention, its batch norms "
        "in training mode):",
        "",
        *table(("model", OURS, PLAIN, TIMM), rows),
        "",
        "Whole models, ours:",
        "",
        *table(("model", "blocks", "step"), whole),
        "",
        f"With timm's blocks CaiT-S24 would take {(timms[1] + (BLOCKS - 1) * slope(timms)) / 1024:.1f} GiB, if each "
        "block adds as much as the second.",
        "",
        "![memory over the number of blocks](vit_memory.png)",
        "",
        "Dashed: the slope carried on. DeepViT: every block with re-attention.",
    ]
