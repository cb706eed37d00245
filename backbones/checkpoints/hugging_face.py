"""Vision transformers of the transformers library, under the names of their authors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_PATCHES = re.compile(r"^(.*)embeddings\.patch_embeddings?\.(projection\.)?weight$")
# Renaming steps of Dinov2Model, DINOv3ViTModel, SiglipVisionModel and BeitModel.
_STEPS = (
    (r"^embeddings\.patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$|^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"^(layernorm|post_layernorm)\.", "norm."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.attention\.(query|key|value)\.", lambda match: f".attn.{match[1][0]}_proj."),
    (r"\.attention\.output\.dense\.|\.self_attn\.out_proj\.|\.attention\.o_proj\.", ".attn.proj."),
    (r"\.(attention|self_attn)\.([qkv])_proj\.", r".attn.\2_proj."),
    (r"\.layer_scale([12])\.lambda1$|\.lambda_([12])$", lambda match: f".gamma_{match[1] or match[2]}"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)
_GATE = ".mlp.gate_proj."
_GATED = ((r"\.mlp\.gate_proj\.", ".mlp.w1."), (r"\.mlp\.up_proj\.", ".mlp.w2."), (r"\.mlp\.down_proj\.", ".mlp.w3."))
_UNGATED = ((r"\.mlp\.up_proj\.", ".mlp.fc1."), (r"\.mlp\.down_proj\.", ".mlp.fc2."))


def is_hugging_face(keys: Iterable[str]) -> bool:
    """Whether these are the keys of a vision transformer of the transformers library."""
    return any(_PATCHES.match(key) for key in keys)


def from_hugging_face(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives weights of the transformers library the names of official files, in which ``q_proj`` and others stay apart.

    Args:
        weights: Tensors by key. Keys may begin with ``dinov2.``, ``vision_model.`` or the like, which is cut off.

    Returns:
        The same tensors; those of other parts, such as a text tower, under the keys they had.
    """
    prefix = next(match[1] for key in weights if (match := _PATCHES.match(key)))
    steps = (*_STEPS, *(_GATED if any(_GATE in key for key in weights) else _UNGATED))
    converted = {}
    for key, value in weights.items():
        name = key
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            for pattern, replacement in steps:
                name = re.sub(pattern, replacement, name)
        converted[name] = value[None] if name == "pos_embed" and value.ndim == 2 else value
    return converted
