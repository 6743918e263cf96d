"""One streamed hop of the motion model as a pure function of explicit state: what is exported and served."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.models.appearance import (
    REFERENCES,
    STRIDE,
    WINDOW_COLUMNS,
    WINDOW_ROWS,
    AppearanceModel,
    window_px,
)
from mytalk.models.motion import MotionConfig, MotionModel


class StreamingHop(nn.Module):
    """All sampling steps of one hop, then the noise-0 pass that writes the hop's frames to memory (design 4).

    The graph is the same for any hop and lookahead up to T tokens: unused tokens are masked.
    """

    def __init__(self, model: MotionModel, steps: int) -> None:
        super().__init__()
        self.model, self.steps = model, steps

    def forward(
        self,
        log_mel: Tensor,
        upper: Tensor,
        identity: Tensor,
        noise: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        conv: Tensor,
        known: Tensor,
        tokens: Tensor,
        hop: Tensor,
        given: Tensor,
        use_given: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sample T tokens, remember the first ``hop``.

        log_mel [B, M, 80]; upper [B, T, U]; identity [B, E]; noise [B, T, C]; cos, sin [B, T, d/2] of the
        tokens' positions; keys, values [B, L, W, D]; conv [B, L, k-1, D]; known, tokens, hop int64 [B]; given
        [B, T, Kc·3]: displacements written to memory instead of the sampled ones where use_given (float [B])
        is 1. Returns displacement [B, T, Kc·3] and the next keys, values, conv.
        """
        window, count = self.model.config.window, self.model.config.tokens
        place, token = (torch.arange(size, device=known.device) for size in (window, count))
        filled = place[None] >= window - known[:, None]
        past = (keys, values, conv)
        own = token[None] < tokens[:, None]
        mask = torch.cat([filled, own], dim=1)[:, None, None].expand(-1, 1, count, -1)
        speech = self.model.audio(log_mel)
        clean = self.model.sample(noise, speech, upper, identity, (cos, sin), mask, past, self.steps)
        sampled = self.model.to_displacement(clean)
        flag = use_given[:, None, None]
        shown = flag * self.model.to_coefficients(given) + (1 - flag) * clean
        kept = token[None] < hop[:, None]
        commit_mask = torch.cat([filled, kept], dim=1)[:, None, None].expand(-1, 1, count, -1)
        level = torch.zeros(noise.shape[:2], dtype=noise.dtype, device=noise.device)
        _, new_keys, new_values, new_gates = self.model.denoiser(
            shown, level, speech, upper, identity, (cos, sin), commit_mask, past
        )
        return (
            sampled,
            _advance(keys, new_keys, hop),
            _advance(values, new_values, hop),
            _advance(conv, new_gates, hop),
        )


def _advance(memory: Tensor, new: Tensor, hop: Tensor) -> Tensor:
    """Drop the oldest ``hop`` places, append the first ``hop`` of ``new`` [B, L, T, D] → [B, L, W, D]."""
    index = torch.arange(memory.shape[2], device=hop.device)[None] + hop[:, None]
    index = index[:, None, :, None].expand(-1, memory.shape[1], -1, memory.shape[3])
    return torch.gather(torch.cat([memory, new], dim=2), 2, index)


def initial_state(config: MotionConfig, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Memory with nothing known: keys, values [B, L, W, D] and convolution tails [B, L, k-1, D], zeros."""
    keys = torch.zeros(count, config.layers, config.window, config.dim)
    conv = torch.zeros(count, config.layers, config.kernel - 1, config.dim)
    return keys, torch.zeros_like(keys), conv


class AppearanceEncoders(nn.Module):
    """Once per actor: uint8 references [3, 256, 256, 3], faces [N, 256, 256, 3] → [N, app + 48, 40, 44]."""

    def __init__(self, model: AppearanceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, references: Tensor, faces: Tensor) -> Tensor:
        """Posterior means, fused."""
        seen = _windows(references)[None]
        lips = self.model.encode_lips(seen)[0]
        face = self.model.encode_face(_windows(faces))[0]
        count = face.shape[0]
        return self.model.latent(lips.expand(count, -1, -1, -1), face, seen.expand(count, -1, -1, -1, -1))


class AppearanceDecoder(nn.Module):
    """What runs for every frame: → pictures uint8 [B, 256, 256, 3]."""

    def __init__(self, model: AppearanceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, landmark_images: Tensor, latents: Tensor, references: Tensor, flows: Tensor) -> Tensor:
        """Decode the mask's window into its place in the crop; the rest is black and never shown.

        landmark_images: [B, 3, 256, 256]. latents: [B, app + 48, 40, 44]. references: uint8
        [B, 3, 256, 256, 3]. flows: [B, 3, 2, 36, 36].
        """
        seen = _windows(references.flatten(0, 1)).unflatten(0, (-1, REFERENCES))
        window = self.model.decode(window_px(landmark_images), latents.float(), seen, flows)
        picture = (window.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)
        (top, bottom), (left, right) = WINDOW_ROWS, WINDOW_COLUMNS
        size = landmark_images.shape[-1]
        margins = (0, 0, left * STRIDE, size - right * STRIDE, top * STRIDE, size - bottom * STRIDE)
        return F.pad(picture, margins)


def _windows(pictures: Tensor) -> Tensor:
    return window_px(pictures.permute(0, 3, 1, 2)).float() / 255
