"""One streamed hop of the motion model as a pure function of explicit state: what is exported and served."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.landmarks.warp import FLOW_STRIDE as STRIDE
from mytalk.landmarks.warp import WINDOW_COLUMNS, WINDOW_ROWS
from mytalk.models.appearance import AppearanceModel, window_px
from mytalk.models.motion import MEL_PER_AUDIO_FRAME, AudioEncoder, MotionConfig, MotionModel


class StreamingHop(nn.Module):
    """All sampling steps of one hop, then the noise-0 pass that gives what the hop's frames leave to memory.

    The graph is the same for any hop and lookahead up to the model's tokens: T is free, and where the rows of
    a batch differ, unused tokens are masked. The memory is read where it lies, in any order of its places
    (positions are in the keys), so that writing a hop into it moves nothing else.
    """

    cos: Tensor
    sin: Tensor
    band: Tensor

    def __init__(self, model: MotionModel, steps: int) -> None:
        super().__init__()
        self.model, self.steps = model, steps
        if isinstance(model.audio, AudioEncoder):
            # Constants: made for the longest call and cut, since the length of a call is free in the graph.
            tables = model.audio.tables(model.config.mel_frames // MEL_PER_AUDIO_FRAME, torch.device("cpu"))
            for name, table in zip(("cos", "sin", "band"), tables, strict=True):
                self.register_buffer(name, table, persistent=False)

    def _heard(self, log_mel: Tensor) -> Tensor:
        if not isinstance(self.model.audio, AudioEncoder):
            heard: Tensor = self.model.audio(log_mel)
            return heard
        count = log_mel.shape[1] // MEL_PER_AUDIO_FRAME
        tables = (self.cos[:, :count], self.sin[:, :count], self.band[..., :count, :count])
        return self.model.audio(log_mel, tables)

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
        filled: Tensor,
        tokens: Tensor,
        hop: Tensor,
        given: Tensor,
        use_given: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sample T tokens; the first ``hop`` become known.

        log_mel [B, M(T), 80]; upper [B, T, U]; identity [B, E]; noise [B, T, C]; cos, sin [B, T, d/2] of the
        tokens' positions; keys, values [B, L, H, W, d]; conv [B, L, k-1, D]; filled bool [B, W]: which places
        of the memory hold a frame; tokens, hop int64 [B]; given [B, T, Kc·3]: displacements that become known
        instead of the sampled ones where use_given (float [B]) is 1. Returns displacement [B, T, Kc·3] and
        the tokens' own keys, values [B, L, H, T, d] and gated inputs [B, L, T, D], for the memory.
        """
        count = noise.shape[1]
        token = torch.arange(count, device=hop.device)
        past = (keys, values, conv)

        def seen(own: Tensor) -> Tensor:
            mask = torch.cat([filled, token[None] < own[:, None]], dim=1)
            return mask[:, None, None]

        speech = self._heard(log_mel)
        told = (speech, upper, identity, (cos, sin))
        clean = self.model.sample(noise, *told, seen(tokens), past, self.steps)
        sampled = self.model.to_displacement(clean)
        flag = use_given[:, None, None]
        shown = flag * self.model.to_coefficients(given) + (1 - flag) * clean
        level = torch.zeros((1, 1), dtype=noise.dtype, device=noise.device)
        _, *new = self.model.denoiser(shown, level, *told, seen(hop), past)
        return sampled, *new


def initial_state(config: MotionConfig, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Memory with nothing known: keys, values [B, L, H, W, d] and convolution tails [B, L, k-1, D], zeros."""
    keys = torch.zeros(count, config.layers, config.heads, config.window, config.dim // config.heads)
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

        landmark_images: [B, 3, 256, 256]. latents: [B, app + 48, 40, 44]. references: fine windows, uint8
        [B, 3, 3, 480, 528]. flows: [B, 3, 2, 36, 36].
        """
        window = self.model.decode(window_px(landmark_images), latents.float(), references, flows)
        picture = (window.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)
        (top, bottom), (left, right) = WINDOW_ROWS, WINDOW_COLUMNS
        size = landmark_images.shape[-1]
        margins = (0, 0, left * STRIDE, size - right * STRIDE, top * STRIDE, size - bottom * STRIDE)
        return F.pad(picture, margins)


def _windows(pictures: Tensor) -> Tensor:
    return window_px(pictures.permute(0, 3, 1, 2)).float() / 255
