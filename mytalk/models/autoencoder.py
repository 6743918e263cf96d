"""Encoder and decoder in the shape of latent diffusion's AutoencoderKL (paper 0.B.1.2, Fig. 9).

Written afresh; the shapes are those that reproduce Table 9 (237,999,878 and 280,452,611 parameters at width
256, multiples 1, 2, 4, eight residual blocks per level, attention in the middle only). Table 9 calls the
width "hidden dim" and the blocks per level "ResnetBlock layers"; the decoder has one block more per level, as
there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mytalk.errors import BadInput

GROUPS = 32
LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Sizes of the paper-shaped appearance model.

    picture: side of the square pictures, pixels. width: channels of the first level; multiples: of the width,
    one per level (a level halves the side, but for the last). blocks: residual blocks per level.
    z: latent channels. fusion_width, fusion_blocks: of FusionNet.
    references: what the lip encoder sees (paper Table 7): ``masked_multi`` (ours: three pictures, only what
    the mask hides), ``masked_single`` or ``full_single`` (one whole picture).
    recompute: recompute activations of residual blocks in the backward pass, which saves memory.
    """

    picture: int = 256
    width: int = 256
    multiples: tuple[int, ...] = (1, 2, 4)
    blocks: int = 8
    z: int = 3
    fusion_width: int = 256
    fusion_blocks: int = 4
    references: str = "masked_multi"
    recompute: bool = False

    def __post_init__(self) -> None:
        """Raise ``BadInput`` for sizes that cannot be built."""
        if self.references not in REFERENCE_COUNTS:
            known = ", ".join(REFERENCE_COUNTS)
            raise BadInput(f"appearance references must be one of {known}, not {self.references!r}")
        if self.width % GROUPS or self.fusion_width % GROUPS:
            raise BadInput(f"appearance widths must be multiples of {GROUPS}")
        if not self.multiples or self.picture % self.stride:
            raise BadInput(f"picture must be a multiple of {self.stride}, and there must be a level")

    @property
    def stride(self) -> int:
        """Picture pixels per latent pixel."""
        return int(2 ** (len(self.multiples) - 1))

    @property
    def reference_count(self) -> int:
        """Pictures that the lip encoder sees."""
        return REFERENCE_COUNTS[self.references]


REFERENCE_COUNTS = {"masked_multi": 3, "masked_single": 1, "full_single": 1}


def group_norm(channels: int) -> nn.GroupNorm:
    """The norm used throughout."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two normed 3×3 convolutions with a skip: [B, C, H, W] → [B, C', H, W]."""

    def __init__(self, wide_in: int, wide_out: int, *, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute
        self.norm_in = group_norm(wide_in)
        self.conv_in = nn.Conv2d(wide_in, wide_out, 3, 1, 1)
        self.norm_out = group_norm(wide_out)
        self.conv_out = nn.Conv2d(wide_out, wide_out, 3, 1, 1)
        self.skip = nn.Conv2d(wide_in, wide_out, 1) if wide_in != wide_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Transform; recomputes itself in the backward pass if told to."""
        if self.recompute and self.training:
            again: Tensor = checkpoint(self._transform, x, use_reentrant=False)
            return again
        return self._transform(x)

    def _transform(self, x: Tensor) -> Tensor:
        moved = self.conv_in(F.silu(self.norm_in(x)))
        moved = self.conv_out(F.silu(self.norm_out(moved)))
        return (x if self.skip is None else self.skip(x)) + moved


class SpatialAttention(nn.Module):
    """Single-head self-attention over all pixels, with a skip: [B, C, H, W] → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix pixels."""
        normed = self.norm(x)
        parts = [
            part(normed).flatten(2).transpose(1, 2)[:, None] for part in (self.query, self.key, self.value)
        ]
        mixed = F.scaled_dot_product_attention(*parts)[:, 0].transpose(1, 2)
        return x + self.out(mixed.unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Strided 3×3 convolution: [B, C, H, W] → [B, C, H/2, W/2]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the side; the one row and column of padding lie right and below."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3×3 convolution: [B, C, H, W] → [B, C, 2H, 2W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Double the side."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _middle(channels: int, *, recompute: bool) -> list[nn.Module]:
    return [
        ResnetBlock(channels, channels, recompute=recompute),
        SpatialAttention(channels),
        ResnetBlock(channels, channels, recompute=recompute),
    ]


class Encoder(nn.Sequential):
    """Pictures [B, 3, H, W] → moments (mean, log-variance) [B, 2 z, H/s, W/s] (paper Fig. 9a)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        widths = [config.width * multiple for multiple in config.multiples]
        layers: list[nn.Module] = [nn.Conv2d(3, config.width, 3, 1, 1)]
        current = config.width
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                layers.append(ResnetBlock(current, width, recompute=config.recompute))
                current = width
            if level < len(widths) - 1:
                layers.append(Downsample(current))
        layers += _middle(current, recompute=config.recompute)
        layers += [group_norm(current), nn.SiLU(), nn.Conv2d(current, 2 * config.z, 3, 1, 1)]
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """Latents [B, z, H/s, W/s] → pictures [B, 3, H, W], unclamped (paper Fig. 9b)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        widths = [config.width * multiple for multiple in reversed(config.multiples)]
        current = widths[0]
        layers: list[nn.Module] = [nn.Conv2d(config.z, current, 3, 1, 1)]
        layers += _middle(current, recompute=config.recompute)
        for level, width in enumerate(widths):
            for _ in range(config.blocks + 1):
                layers.append(ResnetBlock(current, width, recompute=config.recompute))
                current = width
            if level < len(widths) - 1:
                layers.append(Upsample(current))
        layers += [group_norm(current), nn.SiLU(), nn.Conv2d(current, 3, 3, 1, 1)]
        super().__init__(*layers)


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Moments [B, 2 z, h, w] → mean and clamped log-variance, each [B, z, h, w]."""
    mean, logvar = moments.chunk(2, dim=1)
    return mean, logvar.clamp(*LOGVAR_RANGE)


def sample_posterior(mean: Tensor, logvar: Tensor) -> Tensor:
    """A draw from the posterior, same shape; uses torch's global random state, as training does."""
    return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
