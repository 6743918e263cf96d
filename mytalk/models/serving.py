"""What of an appearance model is exported and served: encoders once per actor, a decoder per frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mytalk.landmarks.normalise import CROP
from mytalk.landmarks.warp import WINDOW_COLUMNS, WINDOW_ROWS
from mytalk.models.appearance import BASE_CHANNELS, AppearanceConfig, AppearanceModel
from mytalk.models.autoencoder import AutoencoderConfig
from mytalk.models.paper_appearance import PaperAppearance
from mytalk.models.streaming import AppearanceDecoder, AppearanceEncoders

Appearance = AppearanceModel | PaperAppearance


class PaperEncoders(nn.Module):
    """Sizes ``base`` and ``paper``: uint8 references [3, P, P, 3], faces [N, P, P, 3] → [N, z, h, h]."""

    def __init__(self, model: PaperAppearance) -> None:
        super().__init__()
        self.model = model

    def forward(self, references: Tensor, faces: Tensor) -> Tensor:
        """Posterior means, fused."""
        seen = _pictures(references)[None, : self.model.config.reference_count]
        lips = self.model.encode_lips(seen)[0]
        face = self.model.encode_face(_pictures(faces))[0]
        return self.model.latent(lips.expand(face.shape[0], -1, -1, -1), face)


class PaperDecoder(nn.Module):
    """Sizes ``base`` and ``paper``, for every frame: → pictures uint8 [B, P, P, 3].

    It takes what the tiny decoder takes, so that every engine runs it; references and flows change nothing.
    """

    def __init__(self, model: PaperAppearance) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, landmark_images: Tensor, latents: Tensor, _references: Tensor, _flows: Tensor
    ) -> Tensor:
        """landmark_images: [B, 3, P, P]. latents: [B, z, h, h]."""
        dtype = self.model.post_quant.weight.dtype
        pictures = self.model.decode(landmark_images.to(dtype), latents.to(dtype))
        return (pictures.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)


def _pictures(pictures: Tensor) -> Tensor:
    # Channels first in memory, too: torch's GroupNorm on a CPU sums squares in float32 where channels come
    # last, and was up to 5 % off a standard deviation on a mostly black picture.
    return pictures.permute(0, 3, 1, 2).contiguous().float() / 255


def encoders_of(model: Appearance) -> nn.Module:
    """What runs once per actor."""
    return PaperEncoders(model) if isinstance(model, PaperAppearance) else AppearanceEncoders(model)


def decoder_of(model: Appearance) -> nn.Module:
    """What runs for every frame."""
    return PaperDecoder(model) if isinstance(model, PaperAppearance) else AppearanceDecoder(model)


def latent_shape(model: Appearance) -> tuple[int, int, int]:
    """Channels, height and width of a clip frame's latents."""
    config = model.config
    if isinstance(config, AutoencoderConfig):
        side = config.picture // config.stride
        return config.z, side, side
    height, width = WINDOW_ROWS[1] - WINDOW_ROWS[0], WINDOW_COLUMNS[1] - WINDOW_COLUMNS[0]
    return config.app + BASE_CHANNELS, height, width


def picture_side(model: Appearance) -> int:
    """Side of its square pictures, pixels."""
    return model.config.picture if isinstance(model.config, AutoencoderConfig) else CROP


def appearance_from(values: Mapping[str, Any], hidden: Tensor) -> Appearance:
    """The model of a stored config; which kind it is, its keys tell. Raises ``TypeError`` for other keys."""
    if "multiples" in values:
        return PaperAppearance(
            AutoencoderConfig(**dict(values) | {"multiples": tuple(values["multiples"])}), hidden
        )
    return AppearanceModel(AppearanceConfig(**values), hidden)
