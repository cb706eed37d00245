"""Files in other layouts than ours: JAX's, that of the transformers library, and projections stored in parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from .hugging_face import from_hugging_face, is_hugging_face
from .jax import from_jax, is_jax

# Parts of a projection, in order, and the projection: of a block's attention, and of a gated feed-forward branch under
# the authors' and timm's names.
_PARTS = (
    (("attn.q_proj", "attn.k_proj", "attn.v_proj"), "attn.qkv"),
    (("mlp.w1", "mlp.w2"), "mlp.w12"),
    (("mlp.fc1_g", "mlp.fc1_x"), "mlp.w12"),
)


def to_our_layout(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Brings weights of known other layouts to the names and shapes of the PyTorch originals.

    Args:
        weights: Tensors by checkpoint key.

    Returns:
        The weights, and the changes made, one sentence each.

    Raises:
        CheckpointError: for the names of a layout without its shapes.
    """
    notes = []
    if is_jax(weights):
        try:
            weights = from_jax(weights)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"the file has JAX's names, but not its layouts ({error})") from error
        notes.append("JAX names and layouts converted to PyTorch's")
    if is_hugging_face(weights):
        weights = from_hugging_face(weights)
        notes.append("names of the transformers library converted to those of the authors")
    converted = dict(weights)
    try:
        for step in (_merge_parts, _name_packed_gates, _fold_bias_masks, _copy_shared_table, _flatten_table):
            notes += step(converted)
    except RuntimeError as error:  # of torch.cat and of products
        raise CheckpointError(f"parts of a projection do not fit together ({error})") from error
    return converted, notes


def _merge_parts(weights: dict[str, Tensor]) -> Iterator[str]:
    """Joins projections stored in parts; keys without a bias leave biases of queries and values."""
    for parts, whole in _PARTS:
        first = f"{parts[0]}.weight"
        bases = [key.removesuffix(first) for key in weights if key.endswith(first)]
        bases = [base for base in bases if all(f"{base}{part}.weight" in weights for part in parts)]
        for base in bases:
            for leaf in ("weight", "bias"):
                found = {part: weights.pop(key) for part in parts if (key := f"{base}{part}.{leaf}") in weights}
                if len(found) == len(parts):
                    weights[f"{base}{whole}.{leaf}"] = torch.cat(list(found.values()))
                elif whole == "attn.qkv":
                    weights |= {f"{base}attn.{part[5]}_bias": value for part, value in found.items()}
                else:
                    weights |= {f"{base}{part}.{leaf}": value for part, value in found.items()}
            if whole == "mlp.w12":
                _rename(weights, f"{base}mlp.fc2.", f"{base}mlp.w3.")
                _rename(weights, f"{base}mlp.norm.", f"{base}mlp.ffn_ln.")
        if bases:
            names = ", ".join(part.partition(".")[2] for part in parts)
            yield f"{names} of {len(bases)} blocks were joined to {whole.partition('.')[2]}"


def _name_packed_gates(weights: dict[str, Tensor]) -> Iterator[str]:
    """Timm calls the layers of a gated branch ``fc1``, which then gives twice what ``fc2`` takes, and ``fc2``."""
    gated = [
        key.removesuffix("fc1.weight")
        for key, value in weights.items()
        if key.endswith("mlp.fc1.weight")
        and (out := weights.get(key.replace("fc1", "fc2"))) is not None
        and value.ndim == out.ndim == 2
        and value.shape[0] == 2 * out.shape[1]
    ]
    for base in gated:
        _rename(weights, f"{base}fc1.", f"{base}w12.")
        _rename(weights, f"{base}fc2.", f"{base}w3.")
    if gated:
        yield f"fc1 and fc2 of {len(gated)} gated branches were renamed to w12 and w3"


def _fold_bias_masks(weights: dict[str, Tensor]) -> Iterator[str]:
    """DINOv3 stores biases of queries, keys and values with a mask, 0 for the keys; masked values may be anything."""
    masks = [key for key in weights if key.endswith("attn.qkv.bias_mask") and key.removesuffix("_mask") in weights]
    for key in masks:
        base = key.removesuffix("qkv.bias_mask")
        mask, bias = weights.pop(key), weights.pop(f"{base}qkv.bias")
        bias = torch.where(mask == 0, torch.zeros_like(bias), bias * mask)
        q, k, v = bias.unflatten(0, (3, -1)).unbind()
        weights |= {f"{base}qkv.bias": bias} if k.any() else {f"{base}q_bias": q, f"{base}v_bias": v}
    if masks:
        yield f"bias_mask of {len(masks)} blocks was folded into the biases of queries, keys and values"


def _copy_shared_table(weights: dict[str, Tensor]) -> Iterator[str]:
    """BEiT's blocks share a table of relative positions in pre-training; afterwards each has its own."""
    name = "rel_pos_bias.relative_position_bias_table"
    for key in [key for key in weights if key.endswith(name)]:
        table, base = weights.pop(key), re.escape(key.removesuffix(name))
        blocks = [
            match[0] for other in weights if (match := re.match(rf"{base}blocks\.\d+\.(?=norm1\.weight$)", other))
        ]
        weights |= {f"{block}attn.relative_position_bias_table": table for block in blocks}
        yield f"one table of relative positions for all blocks was copied to {len(blocks)} blocks"


def _flatten_table(weights: dict[str, Tensor]) -> Iterator[str]:
    """SAM's position table is a map, ``(1, h, w, C)``."""
    for key, value in weights.items():
        if key.endswith("pos_embed") and value.ndim == 4 and value.shape[1] == value.shape[2]:
            weights[key] = value.flatten(1, 2)
            yield "pos_embed was a map and became a table"


def _rename(weights: dict[str, Tensor], start: str, new: str) -> None:
    for key in [key for key in weights if key.startswith(start)]:
        weights[key.replace(start, new)] = weights.pop(key)
