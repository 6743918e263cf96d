"""Speech → landmark motion: a diffusion Conformer that predicts x0 (paper 3.3), of any size.

One network, two attention patterns: block-causal (what serves) and bidirectional (the paper's). They differ
in the mask that is passed in and in ``MotionConfig.causal``, never in the weights.

Where the paper's text and its Table 9 disagree: an audio encoder with the printed hidden width of 768 would
have 44M parameters; the table's 24.6M come out with 512. The table's 188M for the Conformer backbone need,
over the 153.7M of twelve blocks, the per-block speech and identity MLPs, whose width is not printed (512
here). Positions are rotary, since relative ones are not mentioned and would cost parameters.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mytalk.models.conformer import ConformerBlock, rotary_tables
from mytalk.models.feature_audio import FeatureAudioEncoder
from mytalk.models.motion_config import (
    AUDIO_PER_FRAME,
    CROSS,
    MEL_PER_AUDIO_FRAME,
    RIGHT_AUDIO_FRAMES,
    MotionConfig,
)

__all__ = [
    "AUDIO_PER_FRAME",
    "MEL_PER_AUDIO_FRAME",
    "RIGHT_AUDIO_FRAMES",
    "AudioEncoder",
    "Denoiser",
    "MotionConfig",
    "MotionModel",
    "band_mask",
    "noise_schedule",
]


STEM_TAIL = 2  # log-mel frames before the first that its 50 Hz frame hears
QUIET = -6.0  # log-mel that counts for nothing


class AudioEncoder(nn.Module):
    """Log-mel → one feature per video frame, with a finite reach to the left and 20 ms to the right.

    Since the reach is finite, a call that hears ``left_audio_frames`` of context gives what the whole
    utterance gives, and so does one that goes on from what an earlier one left (``StreamingSpeech``).
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.audio_dim
        self.stem = nn.Conv1d(config.mels, dim, 4, 2)
        self.blocks = nn.ModuleList(
            ConformerBlock(
                dim, config.audio_heads, config.audio_hidden, config.audio_kernel, config.dropout, cross=False
            )
            for _ in range(config.audio_layers)
        )
        self.downsample = nn.Conv1d(dim, dim, 4, 2)

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel [B, 2 (left + 2 F + 1), 80], natural log → [B, F, audio_dim]."""
        config = self.config
        frames = log_mel.shape[1] // MEL_PER_AUDIO_FRAME
        index = torch.arange(frames, device=log_mel.device)
        rotary = rotary_tables(index[None], config.audio_dim // config.audio_heads)
        padded = F.pad(log_mel, (0, 0, STEM_TAIL, 0), value=QUIET)
        x, _ = self.run_blocks(padded, rotary, band_mask(frames, 0, config.audio_band, index.device), None)
        return self.to_features(x[:, config.left_audio_frames - 1 :])

    def run_blocks(
        self,
        log_mel: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        past: tuple[Tensor, Tensor, Tensor] | None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """50 Hz frames [B, n, audio_dim] of log_mel [B, 2 n + 2, 80], and what each block leaves for later.

        mask: bool [B or 1, 1, n, (past +) n]. past: keys, values [B, La, H, p, d] and convolution tails
        [B, La, k-1, D] of the frames before; None: there are none. See ``ConformerBlock``.
        """
        x = ((log_mel + 6.0) / 3.0).transpose(1, 2)
        x = F.silu(self.stem(x)).transpose(1, 2)
        left: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, block in enumerate(self.blocks):
            before = None if past is None else (past[2][:, i], past[0][:, i], past[1][:, i])
            x, *memory = block(x, rotary, mask, before)
            left.append((memory[0], memory[1], memory[2]))
        return x, left

    def to_features(self, x: Tensor) -> Tensor:
        """50 Hz frames [B, 2 F + 2, audio_dim], from the one before the first on → [B, F, audio_dim]."""
        return self.downsample(x.transpose(1, 2)).transpose(1, 2)


def band_mask(count: int, past: int, band: int, device: torch.device) -> Tensor:
    """Which of the ``past`` frames before and its own each frame hears: bool [1, 1, count, past + count]."""
    index = torch.arange(-past, count, device=device)
    distance = index[past:, None] - index[None]
    return ((distance >= 0) & (distance < band))[None, None]


def noise_schedule(level: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise amplitudes (alpha, sigma) of a noise level: a cosine, 0 = clean, 1 = all noise."""
    angle = level * (torch.pi / 2)
    return torch.cos(angle), torch.sin(angle)


def less_noisy(x: Tensor, clean: Tensor, level: float, next_level: float) -> Tensor:
    """One step of DDIM from x at a noise level, given what it is predicted to be without noise."""
    alpha, sigma = noise_schedule(torch.tensor(level))
    next_alpha, next_sigma = noise_schedule(torch.tensor(next_level))
    return next_alpha * clean + next_sigma * (x - alpha * clean) / sigma


class Denoiser(nn.Module):
    """Conformer backbone that predicts x0 of every frame from its own noise level (paper 3.3.1, 3.3.3).

    Upper-face landmarks of the same frame are concatenated to the noised lower face (the "prefix"), the time
    step is added at the input of every block, speech too, through an MLP of the block's own. Identity comes
    in as ``MotionConfig.condition`` says (Table 5); cross-attention sees ``identity_tokens`` tokens that an
    MLP makes of it, one MLP for all blocks (tiny) or one per block: the paper has a single vector, over which
    attention would have nothing to choose.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        dim, key, cross = config.dim, config.condition_width, config.condition in CROSS
        beside = key if config.condition == "key_concat" else 0
        self.enter = nn.Linear(config.coefficients + config.upper + 1 + beside, dim)
        self.time = nn.Sequential(nn.Linear(config.time_width, dim), nn.SiLU(), nn.Linear(dim, dim))
        if cross and not config.identity_per_block:
            self.identity: nn.Module = _mlp(key, config.hidden_of_mlp, config.identity_tokens * dim)
        elif cross:
            self.identity = nn.ModuleList(
                _mlp(key, config.hidden_of_mlp, config.identity_tokens * dim) for _ in range(config.layers)
            )
        elif config.condition == "key_add":
            self.key = _mlp(key, config.hidden_of_mlp, dim)
        self.speech = nn.ModuleList(
            _mlp(config.audio_dim, config.hidden_of_mlp, dim) for _ in range(config.layers)
        )
        self.blocks = nn.ModuleList(
            ConformerBlock(
                dim,
                config.heads,
                config.hidden,
                config.kernel,
                config.dropout,
                cross=cross,
                causal=config.causal,
            )
            for _ in range(config.layers)
        )
        self.leave = nn.Linear(dim, config.coefficients)

    def embed(
        self, noised: Tensor, level: Tensor, upper: Tensor, identity: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Input tokens, time embedding [B, T, D] and each block's identity tokens [B, N, D] (or None)."""
        known = (level == 0).to(noised.dtype).expand(noised.shape[:2])[..., None]
        parts = [noised, upper, known]
        if self.config.condition == "key_concat":
            parts.append(identity[:, None].expand(-1, noised.shape[1], -1))
        x = self.enter(torch.cat(parts, dim=-1))
        if self.config.condition == "key_add":
            x = x + self.key(identity)[:, None]
        return x, self._time_embedding(level), self._contexts(identity)

    def run_block(self, block: nn.Module, given: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A block's results for the arguments given, its activations recomputed where the config says so."""
        recompute = self.config.recompute and self.training
        found: tuple[Tensor, Tensor, Tensor, Tensor]
        found = checkpoint(block, *given, use_reentrant=False) if recompute else block(*given)
        return found

    def _contexts(self, identity: Tensor) -> list[Tensor | None]:
        tokens = (self.config.identity_tokens, -1)
        if self.config.condition not in CROSS:
            return [None] * self.config.layers
        if isinstance(self.identity, nn.ModuleList):
            return [project(identity).unflatten(-1, tokens) for project in self.identity]
        shared: Tensor = self.identity(identity).unflatten(-1, tokens)
        return [shared] * self.config.layers

    def _time_embedding(self, level: Tensor) -> Tensor:
        half = self.config.time_width // 2
        frequency = torch.exp(torch.arange(half, device=level.device) * (-4.0 / (half - 1)) * 2.302585)
        angle = level[..., None] * 1000.0 * frequency
        return self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))

    def forward(
        self,
        noised: Tensor,
        level: Tensor,
        speech: Tensor,
        upper: Tensor,
        identity: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        past: tuple[Tensor, ...] | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict x0 (paper Eq. 3).

        noised [B, T, C]; level [B, T] or [1, 1] 0..1, 0 = known; speech [B, T, audio_dim]; upper [B, T, U];
        identity [B, condition_width]; mask bool [B, 1, T, (W +) T]; past: keys, values [B, L, H, W, d], tails
        [B, L, k-1, D] (causal models only), and perhaps keys and values of a few frames more, as in
        ``Attention``; valid: bool [B, T], False where a frame is padding.
        Returns x0 [B, T, C] and this call's keys, values [B, L, H, T, d] and gated inputs [B, L, T, D].
        """
        x, time, contexts = self.embed(noised, level, upper, identity)
        memory: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, (block, project) in enumerate(zip(self.blocks, self.speech, strict=True)):
            layer_past = None
            if past is not None:
                layer_past = (past[2][:, i], *(part[:, i] for part in (*past[:2], *past[3:])))
            given = (x + time + project(speech), rotary, mask, layer_past, contexts[i], valid)
            x, key, value, gated = self.run_block(block, given)
            memory.append((key, value, gated))
        keys, values, gates = (torch.stack(part, dim=1) for part in zip(*memory, strict=True))
        return self.leave(x), keys, values, gates


def _mlp(wide_in: int, hidden: int, wide_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(wide_in, hidden), nn.SiLU(), nn.Linear(hidden, wide_out))


class MotionModel(nn.Module):
    """Audio encoder + denoiser + the fixed linear code of displacements.

    Code ``components``: principal components; buffers basis [C, Kc·x] and scale [C] turn coefficients into
    displacements in canonical units (x = ``coordinates`` per point). Code ``raw`` (the paper's): coefficients
    are the displacements themselves, divided by ``scale``.
    """

    basis: Tensor
    scale: Tensor
    mean: Tensor
    inverse: Tensor

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        self.audio = AudioEncoder(config) if config.speech == "log_mel" else FeatureAudioEncoder(config)
        self.denoiser = Denoiser(config)
        width = config.compact * config.coordinates
        if config.code == "components":
            self.register_buffer("basis", torch.zeros(config.coefficients, width))
            self.register_buffer("inverse", torch.zeros(width, config.coefficients))
        self.register_buffer("scale", torch.ones(config.coefficients))
        self.register_buffer("mean", torch.zeros(width))

    def to_displacement(self, coefficients: Tensor) -> Tensor:
        """[..., C] → displacement [..., Kc·x], canonical units."""
        moved = coefficients * self.scale
        return (moved @ self.basis if self.config.code == "components" else moved) + self.mean

    def to_coefficients(self, displacement: Tensor) -> Tensor:
        """Displacement [..., Kc·x] → [..., C]."""
        moved = displacement - self.mean
        return (moved @ self.inverse if self.config.code == "components" else moved) / self.scale

    def sample(
        self,
        noise: Tensor,
        speech: Tensor,
        upper: Tensor,
        identity: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        past: tuple[Tensor, Tensor, Tensor] | None,
        steps: int,
    ) -> Tensor:
        """Deterministic few-step sampling (DDIM on x0) from pure noise [B, T, C] to x0 [B, T, C]."""
        x = noise
        levels = [1 - i / steps for i in range(steps + 1)]
        clean = x
        for now, then in pairwise(levels):
            level = torch.full((1, 1), now, device=x.device)
            clean = self.denoiser(x, level, speech, upper, identity, rotary, mask, past)[0]
            x = less_noisy(x, clean, now, then)
        return clean
