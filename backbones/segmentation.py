"""The segmentation head of frozen backbones. Needs mmseg.

Configs import it by ``custom_imports=dict(imports=["backbones", "backbones.segmentation"])``; importing ``backbones``
alone does not, so detection and classification work without mmseg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """Batch norm and a 1 x 1 convolution on one map: the test of frozen features by a linear layer.

    The names of its parameters are those of DINOv2's published heads.

    Args:
        in_channels: Channels of the map.
        norm_cfg: Of the batch norm.
        kwargs: As for mmseg's ``BaseDecodeHead``: ``num_classes``, ``in_index``, ``align_corners``, ``loss_decode``.

    Shapes:
        inputs: Maps, of which ``in_index`` names one ``(B, in_channels, h, w)``.
        returns: ``(B, num_classes, h, w)``.

    Source: Oquab et al., DINOv2, arXiv:2304.07193, section 7.4.
    """

    def __init__(self, in_channels: int, norm_cfg: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(in_channels, in_channels, norm_cfg=norm_cfg, dropout_ratio=0, **kwargs)
        self.bn = build_norm_layer(norm_cfg, in_channels)[1]

    def forward(self, inputs: Sequence[Tensor]) -> Any:
        return self.cls_seg(self.bn(self._transform_inputs(inputs)))
