"""MAE: a plain transformer learns to fill in masked patches (He et al., arXiv:2111.06377)."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.models.heads import MAEPretrainHead
from torch import Tensor, nn

from ..layers import Attention, Mlp
from ..layers.pos_embed import sincos_pos_embed
from ..trunk import NORM_EPS, Block
from ..vit import ViTTrunk


@MODELS.register_module()
class MaskedAutoencoder(BaseSelfSupervisor):
    """Pre-trains a ``ViTTrunk`` by masking; mmpretrain's ``MAE`` does the same for its own backbone.

    The backbone sees the visible patches only, a shallow decoder all of them, with one learnt token in place of the
    masked ones. The loss is the mean squared error of the masked patches' pixels. Parameters other than the
    backbone's have the official names.

    Args:
        backbone: Config of a ``ViTTrunk`` with ``pos_embed='sincos'`` and no windows.
        mask_ratio: Share of the patches that are masked.
        decoder_embed_dims: Width of the decoder.
        decoder_depth: Its number of blocks.
        decoder_num_heads: Its number of heads.
        norm_pix: Compare with pixels that are normalised within each patch.
        kwargs: As for mmpretrain's ``BaseSelfSupervisor``: ``data_preprocessor``, ``init_cfg``.

    Raises:
        ValueError: for another backbone, one without a class token, and a mask that leaves no patch or all of them.
    """

    backbone: ViTTrunk
    head: MAEPretrainHead

    def __init__(
        self,
        backbone: dict,
        mask_ratio: float = 0.75,
        decoder_embed_dims: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        norm_pix: bool = True,
        **kwargs: Any,
    ) -> None:
        net: Any = MODELS.build(backbone)
        self._check_backbone(net)
        self.num_patches = net.pos_grid[0] * net.pos_grid[1]
        self.num_kept = int(self.num_patches * (1 - mask_ratio))
        if not 0 < self.num_kept < self.num_patches:
            raise ValueError(
                f"mask_ratio is {mask_ratio}, which leaves {self.num_kept} of {self.num_patches} patches; choose one "
                "that leaves some and masks some, such as 0.75"
            )
        head: Any = MAEPretrainHead(
            dict(type="PixelReconstructionLoss", criterion="L2"), norm_pix=norm_pix, patch_size=net.stride
        )
        super().__init__(backbone=net, head=head, **kwargs)
        self.norm = nn.LayerNorm(net.embed_dims, eps=NORM_EPS)
        width = decoder_embed_dims
        self.decoder_embed = nn.Linear(net.embed_dims, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(sincos_pos_embed(width, net.pos_grid, 1), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(width, Attention(width, decoder_num_heads), Mlp(width, 4 * width)) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(width, net.stride**2 * 3)
        self._init_as_published()

    @staticmethod
    def _check_backbone(net: Any) -> None:
        wanted = "MaskedAutoencoder takes a ViTTrunk with square img_size, and no window_size or rel_pos"
        if type(net) is not ViTTrunk:
            raise ValueError(f"{wanted}; got a {type(net).__name__}")
        if not net.tokens:
            raise ValueError(f"{wanted}; got one with windows or relative positions, which masked grids do not have")
        if net.pos_grid[0] != net.pos_grid[1]:
            raise ValueError(f"{wanted}; got img_size={net.img_size}")

    def _init_as_published(self) -> None:
        """Xavier's uniform weights, those of the patches as of a linear layer; tokens from a normal distribution."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        net: Any = self.backbone
        nn.init.xavier_uniform_(net.patch_embed.proj.weight.data.flatten(1))  # a view
        for token in (net.cls_token, self.mask_token):
            nn.init.normal_(token, std=0.02)

    def loss(self, inputs: Tensor, data_samples: Any = None, noise: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            inputs: ``(B, 3, img_size, img_size)``.
            data_samples: Not read.
            noise: ``(B, N)``; the patches with the smallest values stay visible. Random by default.
        """
        latent, kept = self.encode(inputs, noise)
        return dict(loss=self.head.loss(self.decode(latent, kept), inputs, self.mask(kept)))

    def encode(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs the backbone on the visible patches.

        Returns:
            Tokens ``(B, 1 + kept, C)``, the class token first, and the places of the others ``(B, kept)``.
        """
        net = self.backbone
        net.check_input(images)
        if tuple(images.shape[2:]) != net.img_size:
            raise ValueError(
                f"images are {tuple(images.shape[2:])}, but the backbone's img_size is {net.img_size}; set img_size to "
                "the size that the pipeline crops"
            )
        tokens = net.add_positions(net.embed(images)[-1])
        if noise is None:
            noise = torch.rand(len(images), self.num_patches, device=images.device)
        kept = noise.argsort(dim=1)[:, : self.num_kept]
        left = tokens[:, 1:].gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
        last = net.depth - 1
        tokens = net.run_tokens(torch.cat([tokens[:, :1], left], dim=1), net.pos_grid, [last])[last]
        return self.norm(tokens), kept

    def decode(self, latent: Tensor, kept: Tensor) -> Tensor:
        """Pixels of all patches, ``(B, N, stride * stride * 3)``, from the output of ``encode``."""
        x = self.decoder_embed(latent)
        places = self.mask_token.to(x.dtype).expand(len(x), self.num_patches, -1)
        places = places.scatter(1, kept[:, :, None].expand(-1, -1, x.shape[2]), x[:, 1:])
        x = torch.cat([x[:, :1], places], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x, self.backbone.pos_grid, (1.0, 1.0))
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def mask(self, kept: Tensor) -> Tensor:
        """``(B, N)``: 0 where a patch is left, 1 where it is masked."""
        return torch.ones(len(kept), self.num_patches, device=kept.device).scatter(1, kept, 0.0)
