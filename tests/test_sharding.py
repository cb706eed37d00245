"""Several processes train as one: each way to share the work, every memory mode, real processes on gloo.

Three steps of AdamW on parts of each batch give the parameters of three steps on the whole batch in one process.
"""

import contextlib
import copy
import functools
import itertools
from typing import NamedTuple

import pytest
import torch
from archs import small_arch
from mmengine.registry import MODELS
from processes import in_processes
from test_reversible import build
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from backbones.base import DenseBackbone
from backbones.columns import Column, Level
from backbones.revcol import ConvNeXtBlock
from backbones.revcol_vit import PostNormBlock
from backbones.trunk import Trunk

try:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
except ImportError:  # before torch 2.6
    fully_shard = None

STEPS, BATCH, RATE = 3, 8, 1e-3
ARCH = dict(channels=(4, 6, 8, 10), depths=(1, 2, 1, 1), num_columns=4, top_link=True)
UNITS = {"whole": set(), "column": {Column}, "level": {Level}, "block": {ConvNeXtBlock, PostNormBlock}}
MODES = (None, 1, 3, "auto")
WRAPS = ("fsdp1", "fsdp2") if fully_shard else ("fsdp1",)
TRANSFORMERS = [
    name for name, cls in MODELS.module_dict.items() if issubclass(cls, Trunk) and issubclass(cls, DenseBackbone)
]


class Case(NamedTuple):
    """A network, and how its processes share the work.

    ``mode`` is ``keep_every`` of columns, None the plain mode; ``unit`` is what is sharded by itself; ``accumulate``
    takes each batch in two parts.
    """

    wrap: str
    unit: str = "whole"
    mode: int | str | None = None
    kwargs: tuple[tuple[str, object], ...] = ()
    bf16: bool = False
    accumulate: bool = False
    name: str = "RevCol"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.bf16 else torch.float64


def options(**kwargs) -> tuple[tuple[str, object], ...]:
    return tuple(kwargs.items())


KWARGS = [
    options(),
    options(frozen_stages=0),
    options(frozen_stages=2),
    options(out_indices=(0,)),
    options(out_indices=(1, 2)),
    options(out_indices=(3,)),
]


# ------------------------------------------------------------------------------------------------------ what is trained
def network(case: Case) -> torch.nn.Module:
    if case.name == "RevCol":
        return build(case.mode, arch=ARCH, dtype=case.dtype, **dict(case.kwargs))
    torch.manual_seed(0)
    memory = dict() if case.mode is None else dict(reversible=True, keep_every=case.mode)
    net = MODELS.get(case.name)(small_arch(case.name), **memory, **dict(case.kwargs)).to(case.dtype).train()
    for module in net.modules():  # statistics of a batch are those of each process; one process sees other batches
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module
    return net


def batch(step: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.rand(BATCH, 3, 32, 64, generator=torch.Generator().manual_seed(step)).to(dtype)


def loss_of(maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The mean over the batch of a fixed function of each image's maps."""
    generator = torch.Generator().manual_seed(6)
    weights = [torch.randn(1, *f.shape[1:], generator=generator).to(f.dtype) for f in maps]
    return sum((f * w).mean() for f, w in zip(maps, weights, strict=True))


def optimizer(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=RATE)


def unsynchronized(model: torch.nn.Module):
    """Gradients stay with each process."""
    if hasattr(model, "no_sync"):
        return model.no_sync()
    stack = contextlib.ExitStack()
    model.set_requires_gradient_sync(False)
    stack.callback(model.set_requires_gradient_sync, True)
    return stack


def train(model: torch.nn.Module, case: Case, part: slice = slice(None)) -> None:
    steps = optimizer(model)
    for step in range(STEPS):
        x = batch(step, case.dtype)[part]
        if case.accumulate:
            first, x = x.chunk(2)
            with unsynchronized(model):
                (loss_of(model(first)) / 2).backward()
        (loss_of(model(x)) / (2 if case.accumulate else 1)).backward()
        steps.step()
        steps.zero_grad()


# -------------------------------------------------------------------------------------------- what one process comes to
@functools.cache
def expected(case: Case) -> dict[str, torch.Tensor]:
    net = network(case)
    train(net, case)
    return dict(net.named_parameters())


@functools.cache
def expected_in_bf16(case: Case, ranks: int) -> dict[str, torch.Tensor]:
    """Parameters in float32, the arithmetic of each rank's images in bfloat16, the mean of the gradients in float32."""
    net = network(case)
    steps = optimizer(net)
    for step in range(STEPS):
        for part in batch(step, torch.bfloat16).chunk(ranks):
            low = copy.deepcopy(net).bfloat16()
            loss_of(low(part)).backward()
            for p, q in zip(net.parameters(), low.parameters(), strict=True):
                if q.grad is not None:
                    p.grad = q.grad.float() / ranks + (0 if p.grad is None else p.grad)
        steps.step()
        steps.zero_grad()
    return dict(net.named_parameters())


# ------------------------------------------------------------------------------------------- what the processes come to
def wrapped(net: torch.nn.Module, case: Case) -> torch.nn.Module:
    if case.wrap.startswith("ddp"):
        return DistributedDataParallel(
            net, find_unused_parameters="unused" in case.wrap, static_graph="static" in case.wrap
        )
    units = UNITS[case.unit] if case.name.startswith("RevCol") else {type(block) for block in net.blocks}
    if case.wrap == "fsdp2":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if case.bf16 else MixedPrecisionPolicy()
        for module in net.modules():
            if type(module) in units:
                fully_shard(module, mp_policy=policy)
        return fully_shard(net, mp_policy=policy)
    return FullyShardedDataParallel(
        net,
        auto_wrap_policy=ModuleWrapPolicy(units),
        mixed_precision=MixedPrecision(torch.bfloat16, torch.float32) if case.bf16 else None,
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Whole ones, or of FSDP2 this rank's shards."""
    whole = isinstance(model, FullyShardedDataParallel)
    with FullyShardedDataParallel.summon_full_params(model) if whole else contextlib.nullcontext():
        return {
            name.replace("_fsdp_wrapped_module.", "").removeprefix("module."): (
                p.to_local() if hasattr(p, "to_local") else p.detach().clone()
            )
            for name, p in model.named_parameters()
        }


def trained(case: Case) -> dict[str, torch.Tensor]:
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    model = wrapped(network(case), case)
    train(model, case, slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks))
    return parameters(model)


def wanted(case: Case) -> dict[str, torch.Tensor]:
    """In bfloat16, units add up gradients in orders of their own, so plain autograd in the same units is compared."""
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if case.bf16 and case.unit != "whole":
        return trained(case._replace(mode=None))
    plain = case._replace(wrap="", unit="", accumulate=False)
    whole = expected_in_bf16(plain, ranks) if case.bf16 else expected(plain._replace(mode=None))
    if case.wrap == "fsdp2":
        return {name: dict(enumerate(p.chunk(ranks))).get(rank, p[:0]) for name, p in whole.items()}
    return whole


def errors_of(rank: int, cases: list[Case]) -> list[float]:
    """The largest error of a parameter in each case."""
    errors = []
    for case in cases:
        try:
            got, want = trained(case), wanted(case)
        except Exception as error:
            raise RuntimeError(str(case)) from error
        assert got.keys() == want.keys(), case
        errors.append(max((got[name] - want[name]).abs().max().item() for name in want if want[name].numel()))
    return errors


def check(count: int, folder, cases: list[Case], tolerance: float = 1e-6) -> None:
    errors = [max(ranks) for ranks in zip(*in_processes(count, folder, errors_of, cases), strict=True)]
    wrong = [f"{error:.1e} {case}" for case, error in zip(cases, errors, strict=True) if not error <= tolerance]
    assert len(errors) == len(cases)
    assert not wrong, "\n".join(wrong)


SHARDED = [Case(*case) for case in itertools.product(WRAPS, UNITS, MODES, KWARGS)]
HALF = [
    Case(wrap, unit, mode, kwargs, bf16=True)
    for wrap, unit, mode, kwargs in itertools.product(WRAPS, UNITS, MODES, KWARGS[:2])
    if unit == "whole" or mode != 3  # undone in bfloat16, a column depends on the order of every sum
]
DDP = [
    Case(wrap, mode=mode, kwargs=kwargs, accumulate=accumulate)
    for wrap, mode, kwargs, accumulate in itertools.product(
        ("ddp", "ddp-unused", "ddp-static"), MODES, KWARGS, (False, True)
    )
    if not (accumulate and "static" in wrap)  # PyTorch fixes it in the first step, which must synchronize
]
ACCUMULATED = [Case(wrap, unit, mode, accumulate=True) for wrap, unit, mode in itertools.product(WRAPS, UNITS, MODES)]
VIT_COLUMNS = [
    Case(wrap, unit, mode, name="RevColViT") for wrap, unit, mode in itertools.product(WRAPS, UNITS, (None, 1, 2))
]
ACCUMULATED += [
    Case(wrap, "block", accumulate=True, name=name, kwargs=kwargs)
    for name, wrap, kwargs in itertools.product(
        TRANSFORMERS, ("ddp", "ddp-unused", *WRAPS), (options(), options(with_cp=True))
    )
]
OTHERS = [
    Case(wrap, "block", kwargs=kwargs, name=name)
    for name, kwargs, wrap in itertools.product(
        TRANSFORMERS,
        (options(), options(with_cp=True), options(window_size=2), options(norm_eval=True)),
        ("ddp", "ddp-unused", "ddp-static", *WRAPS),
    )
]


@pytest.mark.slow
def test_sharded_processes_train_as_one(tmp_path):
    """A part of the table below: every way, unit and mode, and every kind of network, at least once."""
    pairs = itertools.product(WRAPS, UNITS)
    cases = [Case(*pair, (1, 3, "auto")[i % 3], KWARGS[(i + i // 4) % len(KWARGS)]) for i, pair in enumerate(pairs)]
    cases += [Case("fsdp1", "column", 3, bf16=False, accumulate=True), Case(WRAPS[-1], "column", 1, bf16=True)]
    cases += [Case("ddp-unused", mode=3, kwargs=KWARGS[4], accumulate=True), Case("ddp-static", mode=3)]
    cases += [Case(WRAPS[-1], "block", kwargs=options(with_cp=True), name="CaiT")]
    cases += [Case(WRAPS[-1], "column", 2, name="RevColViT")]
    check(2, tmp_path, cases)


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("table", ["SHARDED", "HALF", "ACCUMULATED", "DDP", "VIT_COLUMNS", "OTHERS"])
def test_every_way_to_share_the_work_trains_as_one_process(table, count, tmp_path):
    cases = globals()[table]
    for start in range(0, len(cases), 32):
        check(count, tmp_path / str(start), cases[start : start + 32])
