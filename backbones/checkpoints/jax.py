"""The original JAX weights of ViT and its hybrids, under timm's names and in PyTorch's layouts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_FIRST = "embedding/kernel"
# Renaming steps from a JAX path to a name. The numbers of modules in a block differ between the vision_transformer
# repository (LayerNorm_2, MultiHeadDotProductAttention_1, MlpBlock_3) and big_vision (1, 0, 0).
_STEPS = (
    (r"^embedding/", "patch_embed/proj/"),
    (r"^cls$", "cls_token"),
    (r"^(Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^pre_logits/", "pre_logits/fc/"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks/\1/"),
    (r"/LayerNorm_0/", "/norm1/"),
    (r"/LayerNorm_[12]/", "/norm2/"),
    (r"/MultiHeadDotProductAttention_[01]/out/", "/attn/proj/"),
    (r"/MultiHeadDotProductAttention_[01]/", "/attn/"),
    (r"/MlpBlock_[03]/Dense_0/", "/mlp/fc1/"),
    (r"/MlpBlock_[03]/Dense_1/", "/mlp/fc2/"),
    (r"^conv_root/", "patch_embed/backbone/stem/conv/"),
    (r"^gn_root/", "patch_embed/backbone/stem/norm/"),
    (r"/conv_proj/", "/downsample/conv/"),
    (r"/gn_proj/", "/downsample/norm/"),
    (r"/gn(\d)/", r"/norm\1/"),
    (r"/(kernel|scale)$", "/weight"),
)


def is_jax(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a ViT or hybrid written by JAX."""
    return any(key.endswith(_FIRST) for key in keys)


def from_jax(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives weights of the vision_transformer or big_vision repository timm's names and PyTorch's layouts.

    Args:
        weights: Content of an ``.npz`` file. Its paths may begin with ``opt/target/``, ``params/`` or the like.

    Returns:
        The same weights as timm names them, with the same beginning: queries, keys and values as one ``qkv``, output
        channels first in kernels, group norms as vectors. Keys without that beginning are not touched.
    """
    prefix = next(key for key in weights if key.endswith(_FIRST)).removesuffix(_FIRST)
    converted = {}
    for key, value in weights.items():
        if key.startswith(prefix):
            path = key.removeprefix(prefix)
            converted[prefix + _name(path)] = _to_torch(path, value)
        else:
            converted[key] = value
    for query in [name for name in converted if ".attn.query." in name]:
        parts = [converted.pop(query.replace("query", part)) for part in ("query", "key", "value")]
        converted[query.replace("query", "qkv")] = torch.cat(parts)
    return converted


def _name(path: str) -> str:
    unit = re.match(r"block(\d+)/unit(\d+)/", path)  # counted from 1
    if unit:
        stage, block = int(unit[1]) - 1, int(unit[2]) - 1
        path = f"patch_embed/backbone/stages/{stage}/blocks/{block}/{path[unit.end() :]}"
    for pattern, replacement in _STEPS:
        path = re.sub(pattern, replacement, path)
    return path.replace("/", ".")


def _to_torch(path: str, value: Tensor) -> Tensor:
    leaf = path.rsplit("/", 1)[-1]
    if leaf in ("bias", "scale"):  # (heads, d) of queries, keys and values; (1, 1, 1, C) of group norms
        return value.flatten()
    if leaf != "kernel":
        return value
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1)  # (h, w, in, out)
    if value.ndim == 3:  # (in, heads, d), but (heads, d, out) behind the attention
        value = value.flatten(0, 1) if path.endswith("out/kernel") else value.flatten(1)
    if value.ndim != 2:
        raise RuntimeError(f"{path} has {value.ndim} dimensions")
    return value.T
