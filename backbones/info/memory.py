"""Memory of a training step of a backbone: counted with tensors without data, or measured, in each memory mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from backbones.base import Backbone
from backbones.benchmark.measure import MIB, peak_mib, training_step
from backbones.info.counting import Allocations
from backbones.info.model import build

ADAMW_VALUES = 2  # mean and variance, for each trainable value


def modes(backbone: nn.Module) -> dict[str, dict[str, Any]]:
    """The backbone's memory modes; other packages' backbones have the one that their config chooses."""
    return backbone.memory_modes() if isinstance(backbone, Backbone) else {"as configured": {}}


def state_bytes(model: nn.Module) -> int:
    """Bytes of the parameters, of their gradients and of AdamW's state; frozen parameters have the first only."""
    return sum(
        p.numel() * p.element_size() * ((2 + ADAMW_VALUES) if p.requires_grad else 1) for p in model.parameters()
    )


def divided_bytes(model: nn.Module, counted: Mapping[str, int], processes: int) -> dict[str, int]:
    """Bytes of one process at the peak of a step that ``train --shard`` divides over processes, in each memory mode.

    A process holds its part of the parameters and of AdamW's state; gathered, the unit that runs and the next one; and
    twice the parameters outside the units, which stay gathered while their gradients wait for one another. The mode
    that needs least tells the activations of one unit at a time. What another mode keeps beyond them is released in
    backward, while the gradients come, of which a process keeps its part.

    Args:
        model: With a backbone of this package.
        counted: Of ``count_step``.
        processes: Their number.
    """
    units = [unit for module in model.modules() if isinstance(module, Backbone) for unit in module.units()]
    sizes = [_parameter_bytes(unit) for unit in units]
    others = _parameter_bytes(model) - sum(sizes)
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    held = (state_bytes(model) - gradients) // processes + 2 * max(sizes, default=0) + 2 * others
    least = min(counted.values())
    return {mode: held + least + max(size - least, gradients // processes) for mode, size in counted.items()}


def _parameter_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def count_step(settings: Any, shape: Sequence[int], device: torch.device) -> dict[str, int]:
    """Bytes that a training step allocates above parameters and gradients, at its peak, in each memory mode.

    Nothing is computed: tensors have a shape, but no data, and the allocations of all operations are followed. The
    route is the one that the operations take on ``device``; the step is in the precision of the weights.

    Args:
        settings: Config of the backbone.
        shape: Of the images, ``(B, 3, H, W)``.
        device: The CPU, or a GPU that is there.
    """
    backbone = _trained(build(settings))
    found = modes(backbone)
    with FakeTensorMode(allow_non_fake_inputs=True):
        backbone.to_empty(device=device)
        images = torch.empty(*shape, device=device)
        grads = _gradients(backbone, images)
        return {
            name: _counted(_step(backbone, mode, images, grads))
            for name, mode in tqdm(found.items(), "memory modes", leave=False, disable=None)
        }


def measure_step(settings: Any, shape: Sequence[int], device: torch.device) -> dict[str, int]:
    """The same bytes as ``count_step``, from the device's allocator while the step runs."""
    backbone = _trained(MODELS.build(settings)).to(device)
    images = torch.randn(*shape, device=device)
    grads = _gradients(backbone, images)
    return {
        name: round(peak_mib(_step(backbone, mode, images, grads), device) * MIB)
        for name, mode in modes(backbone).items()
    }


def _trained(backbone: nn.Module) -> nn.Module:
    backbone = revert_sync_batchnorm(backbone)  # which runs on several GPUs only
    backbone.train()  # returns None in some hosts
    return backbone


def _maps(backbone: nn.Module) -> Callable[[Tensor], list[Tensor]]:
    """The backbone as a function from images to the tensors that it is trained by; frozen stages give others."""
    return lambda images: [x for x in tree_leaves(backbone(images)) if isinstance(x, Tensor) and x.requires_grad]


def _gradients(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """Gradients of these tensors."""
    return [torch.ones_like(x) for x in _maps(backbone)(images)]


def _step(backbone: nn.Module, mode: dict[str, Any], images: Tensor, grads: Sequence[Tensor]) -> Callable[[], None]:
    for name, value in mode.items():
        setattr(backbone, name, value)
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    return training_step(_maps(backbone), images, trainable, keep_grads=True, grads=grads)


def _counted(step: Callable[[], None]) -> int:
    with Allocations() as allocations:
        step()
    return allocations.peak


def free_memory() -> tuple[torch.device, str, int]:
    """The GPU at hand, or else the CPU; its name and its free memory in bytes."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return torch.device("cpu"), "this machine's RAM", int(lines["MemAvailable"].split()[0]) * 1024
