"""Sequences for the motion model: one person's clips stitched together, with silences and a changed voice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import upper_displacement
from mytalk.models.motion import MEL_PER_AUDIO_FRAME, RIGHT_AUDIO_FRAMES, MotionConfig
from mytalk.speech import MEL_FRAMES_PER_FRAME, SILENCE
from mytalk.types import F32
from training.data import HELD_OUT_TAIL, Clip


@dataclass(frozen=True, slots=True)
class MotionClip:
    """displacement f32 [F, Kc·3], upper f32 [F, U], log_mel f32 [4 F, 80], rest f32 [478, 3]."""

    clip: Clip
    displacement: F32
    upper: F32
    log_mel: F32
    rest: F32


@dataclass(frozen=True, slots=True)
class MotionBatch:
    """float32: displacement [B, F, Kc·3], upper [B, F, U], log_mel [B, left + 4 F, 80], rest [B, 478, 3]."""

    displacement: Tensor
    upper: Tensor
    log_mel: Tensor
    rest: Tensor


def load_motion_clip(clip: Clip) -> MotionClip:
    """Read one prepared clip."""
    layout, arrays = load_layout(), clip.arrays()
    canonical, rest = arrays["canonical"], arrays["rest"]
    frames = len(canonical) - (HELD_OUT_TAIL if clip.source == "actors" else 0)
    log_mel = arrays["log_mel"][: frames * MEL_FRAMES_PER_FRAME]
    missing = frames * MEL_FRAMES_PER_FRAME - len(log_mel)
    if missing > 0:
        log_mel = np.concatenate([log_mel, np.full((missing, log_mel.shape[1]), SILENCE, np.float32)])
    moved = canonical[:frames, layout.compact] - rest[layout.compact]
    return MotionClip(
        clip,
        moved.reshape(frames, -1).astype(np.float32),
        upper_displacement(canonical[:frames], rest, layout),
        log_mel,
        rest,
    )


def change_voice(log_mel: F32, random: np.random.Generator) -> F32:
    """Another room, microphone and vocal tract: gain, tilt, mel-axis stretch, noise floor; timing stays."""
    bands = np.arange(log_mel.shape[1], dtype=np.float32)
    out = log_mel
    if random.random() < 0.7:
        stretch = random.uniform(0.86, 1.16)
        source = np.clip(bands * stretch, 0, len(bands) - 1)
        low = np.floor(source).astype(int)
        high, share = np.minimum(low + 1, len(bands) - 1), (source - low).astype(np.float32)
        out = out[:, low] * (1 - share) + out[:, high] * share
    tilt = random.uniform(-1.2, 1.2) * (bands / len(bands) - 0.5)
    wave = random.uniform(0, 0.5) * np.sin(bands * random.uniform(0.05, 0.3) + random.uniform(0, 6.3))
    out = out + (random.uniform(-2.5, 1.0) + tilt + wave)
    if random.random() < 0.6:
        floor = random.uniform(-11.0, -5.0) + random.uniform(-1.0, 1.0) * (bands / len(bands) - 0.5)
        noise = floor + 0.35 * random.standard_normal(out.shape)
        out = np.logaddexp(out, noise)
    return np.maximum(out, SILENCE).astype(np.float32)


class MotionBatches:
    """Draws batches of equally long sequences."""

    def __init__(
        self, clips: list[MotionClip], config: MotionConfig, frames: int, size: int, seed: int
    ) -> None:
        self.frames, self.size, self.config = frames, size, config
        self.random = np.random.default_rng(seed)
        self.by_source: dict[str, list[MotionClip]] = defaultdict(list)
        self.by_identity: dict[str, list[MotionClip]] = defaultdict(list)
        for clip in clips:
            self.by_source[clip.clip.source].append(clip)
            self.by_identity[clip.clip.identity].append(clip)

    def _with_pause(self, moved: F32, log_mel: F32) -> None:
        """Overwrite a stretch with silence and a closed mouth, eased in and out over 4 frames (in place)."""
        longest = max(4, min(60, len(moved) // 2))
        length = int(self.random.integers(min(15, longest - 1), longest))
        start = int(self.random.integers(0, len(moved) - length))
        stop, step = start + length, MEL_FRAMES_PER_FRAME
        room = self.random.uniform(SILENCE, -8.0)
        quiet = room + 0.4 * self.random.standard_normal((length * step, log_mel.shape[1]))
        log_mel[start * step : stop * step] = np.maximum(quiet, SILENCE)
        # The mouth closes just after the sound stops and opens just before it starts again.
        weight = np.zeros(len(moved), np.float32)
        weight[start:stop] = 1
        ramp = np.minimum(1, np.arange(1, length + 1) / 4)
        weight[start:stop] = np.minimum(ramp, ramp[::-1])
        moved *= (1 - weight)[:, None]

    def _sequence(self, clip: MotionClip) -> tuple[F32, F32, F32, F32]:
        pieces, count = [], 0
        while count < self.frames:
            pieces.append(clip)
            count += len(clip.displacement)
            same = self.by_identity[clip.clip.identity]
            clip = same[self.random.integers(len(same))]
        moved = np.concatenate([p.displacement for p in pieces])
        upper = np.concatenate([p.upper for p in pieces])
        log_mel = np.concatenate([p.log_mel for p in pieces])
        start = int(self.random.integers(0, len(moved) - self.frames + 1))
        stop, step = start + self.frames, MEL_FRAMES_PER_FRAME
        moved, upper = moved[start:stop].copy(), upper[start:stop]
        log_mel = log_mel[start * step : stop * step].copy()
        if self.random.random() < 0.5:
            self._with_pause(moved, log_mel)
        return moved, upper, change_voice(log_mel, self.random), pieces[0].rest

    def draw(self) -> MotionBatch:
        """One batch: half synthetic people (all phonemes), half GRID (real mouths), sometimes demo actors."""
        rows = []
        for _ in range(self.size):
            draw = self.random.random()
            source = "synthetic" if draw < 0.5 else "grid" if draw < 0.88 else "actors"
            pool = self.by_source[source] or [c for some in self.by_source.values() for c in some]
            rows.append(self._sequence(pool[self.random.integers(len(pool))]))
        moved, upper, log_mel, rest = (np.stack(x) for x in zip(*rows, strict=True))
        left = MEL_PER_AUDIO_FRAME * self.config.left_audio_frames
        right = MEL_PER_AUDIO_FRAME * RIGHT_AUDIO_FRAMES
        padded = np.pad(log_mel, ((0, 0), (left, right), (0, 0)), constant_values=SILENCE)
        return MotionBatch(*(torch.from_numpy(x.astype(np.float32)) for x in (moved, upper, padded, rest)))
