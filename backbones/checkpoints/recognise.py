"""Which family a checkpoint belongs to, by names that no other family has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# Patterns of keys, most telling first; the family; and the arguments of its model. JAX's names and those of the
# transformers library have been converted before.
_SIGNS = (
    (r"(^|\.)(storage_tokens|rope_embed\.periods)$", "DINOv3", "type='DINOv3'"),
    (r"(^|\.)(register_tokens|reg_token)$", "DINOv2", "type='DINOv2', registers={tokens}"),
    (r"relative_position_bias_table$", "BEiT", "type='BEiT'"),
    (r"(^|\.)rope\.freqs_cos$|\.mlp\.ffn_ln\.weight$", "EVA02", "type='EVA02'"),
    (
        r"(^|\.)(image_encoder\.|neck\.0\.weight$)",
        "SAM",
        "type='PlainViT', img_size=1024, window_size=14, rel_pos=1024",
    ),
    (r"(^|\.)(attn_pool\.|head\.probe$)", "SigLIP2", "type='SigLIP2'"),
    (r"(^|\.)blocks_token_only\.", "CaiT", "type='CaiT'"),
    (r"(^|\.)i2t\.", "CeiT", "type='CeiT'"),
    (r"\.reatten_matrix\.", "DeepViT", "type='DeepViT'"),
    (r"(^|\.)dist_token$", "DeiT", "type='DeiT'"),
    (r"(^|\.)patch_embed\.backbone\.stages\.", "HybridViT", "type='HybridViT'"),
    (r"(^|\.)(text_model|text|token_embedding|text_projection)\.", "text tower", "give a file with the image tower"),
)


def hint(weights: Mapping[str, Tensor], model_name: str) -> str:
    """A sentence that names the family of a file that does not fit.

    Args:
        weights: Tensors by checkpoint key.
        model_name: Class of the model that it does not fit.

    Returns:
        The sentence, behind a space; empty for a file of the model's own family, or of none that is known.
    """
    for pattern, family, arguments in _SIGNS:
        if key := _first(pattern, weights):
            if family == "DINOv2" and not any(name.endswith("pos_embed") for name in weights):
                family, arguments = "DINOv3", "type='DINOv3'"  # by timm's name of the tokens
            if model_name.removesuffix("Trunk") == family:
                return ""
            shape = weights[key].shape
            arguments = arguments.format(tokens=shape[1] if len(shape) == 3 else 4)
            return f" Its names ({key}) are those of {family}: {arguments}"
    return ""


def _first(pattern: str, keys: Iterable[str]) -> str | None:
    return next((key for key in keys if re.search(pattern, key)), None)
