"""RevCol's classification heads: the plain one, and intermediate supervision (arXiv:2212.11696, section 2.3).

With intermediate supervision four classifiers hang on the columns after each quarter, and three decoders rebuild the
image from the columns of the first three. Parameter names are the official ones.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..columns import LEVELS, ColumnNetwork
from ..layers import LayerNorm2d
from ..revcol import NORM_EPS, ConvNeXtBlock, RevCol, init_weights
from .heads import DenseHead

HEADS = 4  # supervised columns
MAX_DECODED_CLASSES = 1000  # more, as in ImageNet-22k, get the simple decoder


class Classifier(nn.Module):
    """Mean of a map, norm, linear layer: ``(B, C, h, w)`` to ``(B, num_classes)``."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.LayerNorm(channels, eps=NORM_EPS), nn.Linear(channels, num_classes))

    def pool(self, x: Tensor) -> Tensor:
        return self.classifier[0](x.mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier[1](self.pool(x))


class Decoder(nn.Module):
    """Rebuilds the image from a coarsest map: ``(B, C_3, h, w)`` to logits ``(B, 3, 32 h, 32 w)``.

    Three times: to the width of the next finer level, twice as large (bilinear), one block; then 4 x 4 pixels from each
    value.
    """

    def __init__(self, channels: tuple[int, ...], kernel_size: int = 3) -> None:
        super().__init__()
        widths = channels[::-1]
        self.proj_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, narrow, 1), LayerNorm2d(narrow, eps=NORM_EPS), nn.GELU())
            for wide, narrow in itertools.pairwise(widths)
        )
        self.normal_layers = nn.ModuleList(
            nn.Sequential(ConvNeXtBlock(width, kernel_size, expansion=1)) for width in widths[1:]
        )
        self.projback = nn.Sequential(nn.Conv2d(widths[-1], 4 * 4 * 3, 1), nn.PixelShuffle(4))

    def forward(self, x: Tensor) -> Tensor:
        for project, block in zip(self.proj_layers, self.normal_layers, strict=True):
            x = F.interpolate(project(x), scale_factor=2, mode="bilinear", align_corners=True)
            x = block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.projback(x)


class SimpleDecoder(nn.Module):
    """32 x 32 pixels from each value of a coarsest map; for ImageNet-22k."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.projback = nn.Sequential(
            LayerNorm2d(channels[-1], eps=NORM_EPS), nn.Conv2d(channels[-1], 32 * 32 * 3, 1), nn.PixelShuffle(32)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.projback(x)


def _check_coarsest(backbone: ColumnNetwork) -> None:
    """Refuses ``out_indices`` without the coarsest level, whose parameters are then frozen as unused."""
    if isinstance(backbone, RevCol) and backbone.out_indices[-1] != LEVELS - 1:
        raise ValueError(
            f"out_indices of the RevCol is {backbone.out_indices}, without the coarsest level, which a classifier "
            "reads; leave out_indices at its default"
        )


@MODELS.register_module()
class RevColHead(DenseHead):
    """The plain head: mean of the last column's coarsest map, norm, linear layer."""

    reads = ColumnNetwork

    def add_layers(self, backbone: ColumnNetwork) -> None:
        _check_coarsest(backbone)
        self.cls = Classifier(backbone.channels[-1], self.num_classes)
        self.apply(init_weights)

    def read(self, backbone: ColumnNetwork, x: Tensor) -> Tensor:
        (last,) = backbone.coarsest_maps(x, [backbone.num_columns - 1])
        return last

    def pre_logits(self, feats: Any) -> Tensor:
        return self.cls.pool(feats)

    def forward(self, feats: Any) -> Tensor:
        return self.cls(feats)


@MODELS.register_module()
class SupervisedRevColHead(DenseHead):
    """Intermediate supervision: four classifiers, three image decoders, one loss.

    Args:
        reconstruction_weight: Largest weight of the decoders' loss; it falls linearly from column to column.
        label_weight: Largest weight of the first three classifiers' loss; it rises linearly, and the last has 1.
        kwargs: As for ``DenseHead``.

    The last classifier predicts.

    Source: arXiv:2212.11696, equation 5; coefficients of the published training configs.

    Raises:
        ValueError: for a number of columns that is no multiple of four.
    """

    reads = RevCol
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *args: Any,
        reconstruction_weight: float = 3.0,
        label_weight: float = 0.7,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.reconstruction_weight, self.label_weight = reconstruction_weight, label_weight
        self.register_buffer("mean", torch.tensor(RevCol.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(RevCol.pixel_std).view(3, 1, 1), persistent=False)

    def add_layers(self, backbone: RevCol) -> None:
        _check_coarsest(backbone)
        if backbone.num_columns % HEADS:
            raise ValueError(
                f"the RevCol has {backbone.num_columns} columns; intermediate supervision takes a multiple of {HEADS}"
            )
        channels = backbone.channels
        self.cls_blocks = nn.ModuleList(Classifier(channels[-1], self.num_classes) for _ in range(HEADS))
        decoder = Decoder if self.num_classes <= MAX_DECODED_CLASSES else SimpleDecoder
        self.decoder_blocks = nn.ModuleList(decoder(channels) for _ in range(HEADS - 1))
        self.apply(init_weights)

    def see_images(self, preprocessor: Any) -> None:
        if (mean := getattr(preprocessor, "mean", None)) is not None:
            self.mean, self.std = mean.clone(), preprocessor.std.clone()

    def pixels(self, images: Tensor) -> Tensor:
        """The decoders' targets: pixel values in [0.01, 0.99]."""
        return ((images * self.std + self.mean) / 255).clamp(0.01, 0.99)

    def read(self, backbone: RevCol, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """The coarsest maps of the supervised columns, and the images."""
        quarter = backbone.num_columns // HEADS
        return backbone.coarsest_maps(x, range(quarter - 1, backbone.num_columns, quarter)), x

    def pre_logits(self, feats: Any) -> Tensor:
        last: Any = self.cls_blocks[-1]
        return last.pool(feats[0][-1])

    def forward(self, feats: Any) -> Tensor:
        return self.cls_blocks[-1](feats[0][-1])

    def all_logits(self, maps: list[Tensor]) -> list[Tensor]:
        """Logits of the four classifiers, the last being the prediction."""
        return [head(x) for head, x in zip(self.cls_blocks, maps, strict=True)]

    def reconstructions(self, maps: list[Tensor]) -> list[Tensor]:
        """The three decoders' logits of the image's pixel values, ``(B, 3, H, W)``."""
        return [decoder(x) for decoder, x in zip(self.decoder_blocks, maps[:-1], strict=True)]

    def loss(self, feats: Any, data_samples: list, **kwargs: Any) -> dict[str, Tensor]:
        maps, images = feats
        target = self.pixels(images)
        *early, last = self.all_logits(maps)
        losses = self._get_loss(last, data_samples)
        n = len(early)
        height, width = (32 * size for size in maps[-1].shape[2:])  # RevCol rounds down, so an edge may be left out
        target = target[..., :height, :width]
        for j, (logits, image) in enumerate(zip(early, self.reconstructions(maps), strict=True)):
            rebuilt = F.binary_cross_entropy_with_logits(image, target)
            losses[f"loss_image_{j}"] = self.reconstruction_weight * (1 - j / n) * rebuilt
            label = self._get_loss(logits, data_samples)["loss"]
            losses[f"loss_label_{j}"] = self.label_weight * (j + 1) / (n + 1) * label
        return losses
