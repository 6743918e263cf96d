"""Speech → landmark motion: a block-causal diffusion Conformer that predicts x0 (paper 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mytalk.models.conformer import ConformerBlock, rotary_tables

MEL_PER_AUDIO_FRAME = 2  # 100 Hz log-mel → 50 Hz
AUDIO_PER_FRAME = 2  # 50 Hz → 25 frames/s
RIGHT_AUDIO_FRAMES = 1  # right context of the last convolution: 20 ms, counted as delay


@dataclass(frozen=True, slots=True)
class MotionConfig:
    """Sizes of the motion model (``tiny``).

    coefficients: C, principal components of the compact landmarks' displacement.
    window: W, known frames kept. tokens: T, most frames of one streamed call.
    audio_band: 50 Hz frames an audio layer looks back.
    """

    coefficients: int = 32
    compact: int = 178
    upper: int = 124
    identity: int = 64
    identity_tokens: int = 4
    dim: int = 160
    layers: int = 4
    heads: int = 4
    hidden: int = 320
    kernel: int = 5
    audio_dim: int = 128
    audio_layers: int = 2
    audio_heads: int = 4
    audio_hidden: int = 256
    audio_kernel: int = 5
    audio_band: int = 16
    mels: int = 80
    window: int = 240
    tokens: int = 8
    dropout: float = 0.1

    @property
    def left_audio_frames(self) -> int:
        """50 Hz frames before the first token that its feature can depend on, and two more for alignment."""
        reach = self.audio_layers * (self.audio_band - 1 + self.audio_kernel - 1) + 3
        return reach + reach % 2 + 2

    @property
    def mel_frames(self) -> int:
        """M, log-mel frames of one streamed call."""
        return MEL_PER_AUDIO_FRAME * (
            self.left_audio_frames + AUDIO_PER_FRAME * self.tokens + RIGHT_AUDIO_FRAMES
        )

    @property
    def mel_right(self) -> int:
        """Log-mel frames after the end of the last token."""
        return MEL_PER_AUDIO_FRAME * RIGHT_AUDIO_FRAMES


class AudioEncoder(nn.Module):
    """Log-mel → one feature per video frame, with a finite reach to the left and 20 ms to the right.

    Since the reach is finite, a streamed call that hears ``left_audio_frames`` of context gives what the
    whole utterance gives.
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
        x = ((log_mel + 6.0) / 3.0).transpose(1, 2)
        x = F.silu(self.stem(F.pad(x, (2, 0)))).transpose(1, 2)
        count = x.shape[1]
        index = torch.arange(count)
        distance = index[:, None] - index[None]
        mask = ((distance >= 0) & (distance < config.audio_band))[None, None]
        cos, sin = rotary_tables(index[None], config.audio_dim // config.audio_heads)
        for block in self.blocks:
            x = block(x, (cos, sin), mask)[0]
        x = x[:, config.left_audio_frames - 1 :]
        return self.downsample(x.transpose(1, 2)).transpose(1, 2)


def noise_schedule(level: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise amplitudes (alpha, sigma) of a noise level: a cosine, 0 = clean, 1 = all noise."""
    angle = level * (torch.pi / 2)
    return torch.cos(angle), torch.sin(angle)


class Denoiser(nn.Module):
    """Conformer backbone that predicts x0 of every frame from its own noise level."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.enter = nn.Linear(config.coefficients + config.upper + 1, dim)
        self.time = nn.Sequential(nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.identity = nn.Sequential(
            nn.Linear(config.identity, dim), nn.SiLU(), nn.Linear(dim, config.identity_tokens * dim)
        )
        self.speech = nn.ModuleList(
            nn.Sequential(nn.Linear(config.audio_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
            for _ in range(config.layers)
        )
        self.blocks = nn.ModuleList(
            ConformerBlock(dim, config.heads, config.hidden, config.kernel, config.dropout, cross=True)
            for _ in range(config.layers)
        )
        self.leave = nn.Linear(dim, config.coefficients)

    def _time_embedding(self, level: Tensor) -> Tensor:
        frequency = torch.exp(torch.arange(32) * (-4.0 / 31) * 2.302585)
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
        past: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predict x0 (paper Eq. 3).

        noised [B, T, C]; level [B, T] 0..1, 0 = known; speech [B, T, audio_dim]; upper [B, T, U];
        identity [B, E]; mask bool [B, 1, T, (W +) T]; past: keys, values [B, L, W, D], tails [B, L, k-1, D].
        Returns x0 [B, T, C] and this call's keys, values, gated inputs, each [B, L, T, D].
        """
        known = (level == 0).to(noised.dtype)[..., None]
        x = self.enter(torch.cat([noised, upper, known], dim=-1))
        time = self._time_embedding(level)
        context = self.identity(identity).unflatten(-1, (self.config.identity_tokens, -1))
        memory: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, (block, project) in enumerate(zip(self.blocks, self.speech, strict=True)):
            layer_past = None if past is None else (past[0][:, i], past[1][:, i], past[2][:, i])
            x, key, value, gated = block(x + time + project(speech), rotary, mask, layer_past, context)
            memory.append((key, value, gated))
        keys, values, gates = (torch.stack(part, dim=1) for part in zip(*memory, strict=True))
        return self.leave(x), keys, values, gates


class MotionModel(nn.Module):
    """Audio encoder + denoiser + the linear code of displacements (principal components, fixed).

    Buffers: basis [C, Kc·3] and scale [C] turn coefficients into displacements in canonical units.
    """

    basis: Tensor
    scale: Tensor
    mean: Tensor
    inverse: Tensor

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        self.audio = AudioEncoder(config)
        self.denoiser = Denoiser(config)
        width = config.compact * 3
        self.register_buffer("basis", torch.zeros(config.coefficients, width))
        self.register_buffer("inverse", torch.zeros(width, config.coefficients))
        self.register_buffer("scale", torch.ones(config.coefficients))
        self.register_buffer("mean", torch.zeros(width))

    def to_displacement(self, coefficients: Tensor) -> Tensor:
        """[..., C] → displacement [..., Kc·3], canonical units."""
        return (coefficients * self.scale) @ self.basis + self.mean

    def to_coefficients(self, displacement: Tensor) -> Tensor:
        """Displacement [..., Kc·3] → [..., C]."""
        return (displacement - self.mean) @ self.inverse / self.scale

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
            level = torch.full(x.shape[:2], now)
            clean = self.denoiser(x, level, speech, upper, identity, rotary, mask, past)[0]
            alpha, sigma = noise_schedule(torch.tensor(now))
            next_alpha, next_sigma = noise_schedule(torch.tensor(then))
            x = next_alpha * clean + next_sigma * (x - alpha * clean) / sigma
        return clean
