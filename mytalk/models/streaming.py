"""One streamed hop of the models as pure functions of explicit state: what is exported and served."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.landmarks.warp import FLOW_STRIDE as STRIDE
from mytalk.landmarks.warp import WINDOW_COLUMNS, WINDOW_ROWS
from mytalk.models.appearance import AppearanceModel, window_px
from mytalk.models.motion import (
    AUDIO_PER_FRAME,
    AudioEncoder,
    MotionConfig,
    MotionModel,
    band_mask,
    less_noisy,
)


class StreamingSpeech(nn.Module):
    """What a hop hears, from what earlier hops have left: exact, since the encoder is causal.

    Its right context, 20 ms, is heard anew by the next hop.
    """

    band: Tensor

    def __init__(self, model: AudioEncoder) -> None:
        super().__init__()
        self.model, config = model, model.config
        # A constant: made for the longest call and cut, since the length of a call is free in the graph.
        most = config.left_audio_frames + AUDIO_PER_FRAME * config.tokens + 1
        band = band_mask(most, config.audio_band - 1, config.audio_band, torch.device("cpu"))[0, 0]
        self.register_buffer("band", band, persistent=False)

    def forward(
        self,
        log_mel: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        conv: Tensor,
        last: Tensor,
        filled: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Hear T tokens: n = 2 T + 1 frames of 20 ms.

        log_mel [B, 2 n + 2, 80], from two frames before the first token on; cos, sin [B, n, d/2] of the
        frames' positions; keys, values [B, La, H, b-1, d] of the frames before, conv [B, La, k-1, D], last
        [B, 1, D] the frame before; filled bool [B, b-1]: which of those before there are. Returns features
        [B, T, D] and the frames' own keys, values [B, La, H, n, d], gated inputs [B, La, n, D] and frames
        [B, n, D], for the memory.
        """
        past, count = filled.shape[1], cos.shape[1]
        band = self.band[:count, : past + count]
        own = torch.ones_like(filled[:, :1]).expand(-1, count)
        mask = (band[None] & torch.cat([filled, own], dim=1)[:, None])[:, None]
        x, left = self.model.run_blocks(log_mel, (cos, sin), mask, (keys, values, conv))
        features = self.model.to_features(torch.cat([last, x], dim=1))
        made = [torch.stack(part, dim=1) for part in zip(*left, strict=True)]
        return features, made[0], made[1], made[2], x


def hearing_of(model: MotionModel) -> nn.Module:
    """What makes a hop's speech features: streaming, or an encoder that takes all of its context."""
    return StreamingSpeech(model.audio) if isinstance(model.audio, AudioEncoder) else model.audio


class StreamingHop(nn.Module):
    """All sampling steps of one hop; in the first, the frames that became known last go into the memory, too.

    They are the clean frames just before the new ones (noise level 0) and see no more than the memory and
    each other, as in training, so one pass does for both: a hop costs as many passes as it has steps. The
    graph is the same for any hop and lookahead: P and T are free, and where the rows of a batch differ,
    unused tokens are masked. The memory is read where it lies, in any order of its places (positions are in
    the keys), so that writing frames into it moves nothing else.
    """

    def __init__(self, model: MotionModel, steps: int) -> None:
        super().__init__()
        self.model, self.steps = model, steps

    def forward(
        self,
        speech: Tensor,
        upper: Tensor,
        identity: Tensor,
        noise: Tensor,
        cos: Tensor,
        sin: Tensor,
        tokens: Tensor,
        keys: Tensor,
        values: Tensor,
        conv: Tensor,
        filled: Tensor,
        kept: Tensor,
        ready: Tensor,
        known_speech: Tensor,
        known_upper: Tensor,
        known_cos: Tensor,
        known_sin: Tensor,
        clean: Tensor,
        given: Tensor,
        use_given: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Sample T tokens after P that are known.

        Of the T: speech [B, T, audio_dim]; upper [B, T, U]; noise [B, T, C]; cos, sin [B, T, d/2] of their
        positions; tokens int64 [B]: how many are none of the padding. identity [B, E]. Memory: keys, values
        [B, L, H, W, d]; conv [B, L, k-1, D]; bool [B, W] which places hold a frame: filled for the P, kept
        (which they do not overwrite) for the T. Of the P (1 at least): ready bool [B]: False if they stand
        for nothing; speech, upper, cos, sin; clean [B, P, C], or where use_given (float [B, P]) is 1 the
        displacements given [B, P, Kc·3]. Returns displacement [B, T, Kc·3] and coefficients [B, T, C] of the
        T, and keys, values [B, L, H, P, d] and gated inputs [B, L, P, D] of the P, for the memory.
        """
        known, count = clean.shape[1], noise.shape[1]
        flag = use_given[..., None]
        shown = flag * self.model.to_coefficients(given) + (1 - flag) * clean
        # Masks: rows of the P, then of the T; columns of the memory, the P and the T.
        places = torch.arange(known + count, device=tokens.device)
        new, among = places >= known, places[None] - known < tokens[:, None]
        # Of bools ONNX Runtime has no Where.
        older = (new[None, :, None] & kept[:, None]) | (~new[None, :, None] & filled[:, None])
        near = ready[:, None].expand(-1, known + count) | new[None]
        own = (near & among)[:, None] & (new[:, None] | ~new[None])[None]
        mask = torch.cat([older, own], dim=2)[:, None]
        all_of = [
            torch.cat(both, dim=1)
            for both in (
                (shown, noise),
                (known_speech, speech),
                (known_upper, upper),
                (known_cos, cos),
                (known_sin, sin),
            )
        ]
        level = new.to(noise.dtype)[None]
        x, heard, above, *rotary = all_of
        found, key, value, gate = self.model.denoiser(
            x, level, heard, above, identity, (rotary[0], rotary[1]), mask, (keys, values, conv), near
        )
        made = found[:, known:]
        if self.steps > 1:
            tail = torch.cat([conv, gate[:, :, :known]], dim=2)[:, :, -conv.shape[2] :]
            past = (keys, values, tail, key[:, :, :, :known], value[:, :, :, :known])
            made = self._further(noise, made, (speech, upper, identity, (cos, sin)), mask[:, :, known:], past)
        displacement = self.model.to_displacement(made)
        return displacement, made, key[:, :, :, :known], value[:, :, :, :known], gate[:, :, :known]

    def _further(
        self,
        noise: Tensor,
        made: Tensor,
        told: tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]],
        mask: Tensor,
        past: tuple[Tensor, ...],
    ) -> Tensor:
        """The steps after the first, which has made [B, T, C] of the noise."""
        levels = [1 - i / self.steps for i in range(self.steps + 1)]
        x = less_noisy(noise, made, levels[0], levels[1])
        for now, then in pairwise(levels[1:]):
            level = torch.full((1, 1), now, device=x.device)
            made = self.model.denoiser(x, level, *told, mask, past)[0]
            x = less_noisy(x, made, now, then)
        return made


def initial_state(config: MotionConfig, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Memory with nothing known: keys, values [B, L, H, W, d] and convolution tails [B, L, k-1, D], zeros."""
    keys = torch.zeros(count, config.layers, config.heads, config.window, config.dim // config.heads)
    conv = torch.zeros(count, config.layers, config.kernel - 1, config.dim)
    return keys, torch.zeros_like(keys), conv


def initial_hearing(config: MotionConfig, count: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nothing heard: keys, values [B, La, H, b-1, d], tails [B, La, k-1, D], last frame [B, 1, D]."""
    heads, dim = config.audio_heads, config.audio_dim
    keys = torch.zeros(count, config.audio_layers, heads, config.audio_band - 1, dim // heads)
    conv = torch.zeros(count, config.audio_layers, config.audio_kernel - 1, dim)
    return keys, torch.zeros_like(keys), conv, torch.zeros(count, 1, dim)


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
