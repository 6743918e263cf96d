"""Sequences for the motion model: one person's clips stitched together, with silences and a changed voice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

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


class MotionBatch(NamedTuple):
    """B sequences of F frames: padded at the end where they are shorter.

    float32: displacement [B, F, Kc·3], upper [B, F, U], log_mel [B, left + 4 F + right, 80], rest
    [B, 478, 3];
    valid bool [B, F], False where padded.
    """

    displacement: Tensor
    upper: Tensor
    log_mel: Tensor
    rest: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True)
class MotionDraw:
    """How batches are drawn (TOML table ``[data]``).

    batch, frames: sequences of one batch and process, and their length. stitch: join clips of one person to
    full length, with silences; otherwise a sequence is one clip, cut or padded to ``frames`` (paper: 250).
    synthetic_share, grid_share: how often a clip of these sources is drawn; the rest is demo actors.
    change_voice: another room and vocal tract for every sequence.
    """

    batch: int = 12
    frames: int = 200
    stitch: bool = True
    synthetic_share: float = 0.5
    grid_share: float = 0.38
    change_voice: bool = True


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
    """Draws batches of sequences; all randomness comes from the argument of ``draw``."""

    def __init__(self, clips: list[MotionClip], config: MotionConfig, settings: MotionDraw) -> None:
        self.settings, self.config = settings, config
        self.by_source: dict[str, list[MotionClip]] = defaultdict(list)
        self.by_identity: dict[str, list[MotionClip]] = defaultdict(list)
        for clip in clips:
            self.by_source[clip.clip.source].append(clip)
            self.by_identity[clip.clip.identity].append(clip)

    def _with_pause(self, moved: F32, log_mel: F32, random: np.random.Generator) -> None:
        """Overwrite a stretch with silence and a closed mouth, eased in and out over 4 frames (in place)."""
        longest = max(4, min(60, len(moved) // 2))
        length = int(random.integers(min(15, longest - 1), longest))
        start = int(random.integers(0, len(moved) - length))
        stop, step = start + length, MEL_FRAMES_PER_FRAME
        room = random.uniform(SILENCE, -8.0)
        quiet = room + 0.4 * random.standard_normal((length * step, log_mel.shape[1]))
        log_mel[start * step : stop * step] = np.maximum(quiet, SILENCE)
        # The mouth closes just after the sound stops and opens just before it starts again.
        weight = np.zeros(len(moved), np.float32)
        weight[start:stop] = 1
        ramp = np.minimum(1, np.arange(1, length + 1) / 4)
        weight[start:stop] = np.minimum(ramp, ramp[::-1])
        moved *= (1 - weight)[:, None]

    def _stitched(self, clip: MotionClip, random: np.random.Generator) -> tuple[F32, F32, F32]:
        """displacement, upper, log-mel of one person's clips, joined until they are long enough."""
        pieces, count = [], 0
        while count < self.settings.frames:
            pieces.append(clip)
            count += len(clip.displacement)
            same = self.by_identity[clip.clip.identity]
            clip = same[random.integers(len(same))]
        moved = np.concatenate([p.displacement for p in pieces])
        upper = np.concatenate([p.upper for p in pieces])
        return moved, upper, np.concatenate([p.log_mel for p in pieces])

    def _sequence(self, clip: MotionClip, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Fields of ``MotionBatch`` for one row, without the audio's contexts."""
        frames, step, stitch = self.settings.frames, MEL_FRAMES_PER_FRAME, self.settings.stitch
        moved, upper, log_mel = clip.displacement, clip.upper, clip.log_mel
        if stitch:
            moved, upper, log_mel = self._stitched(clip, random)
        start = int(random.integers(0, max(0, len(moved) - frames) + 1))
        stop = min(start + frames, len(moved))
        moved, upper = moved[start:stop].copy(), upper[start:stop]
        log_mel = log_mel[start * step : stop * step].copy()
        if stitch and random.random() < 0.5:
            self._with_pause(moved, log_mel, random)
        if self.settings.change_voice:
            log_mel = change_voice(log_mel, random)
        short = frames - len(moved)
        return (
            np.pad(moved, ((0, short), (0, 0))),
            np.pad(upper, ((0, short), (0, 0)), mode="edge"),
            np.pad(log_mel, ((0, short * step), (0, 0)), constant_values=SILENCE),
            clip.rest,
            np.arange(frames) < len(moved),
        )

    def draw(self, random: np.random.Generator) -> MotionBatch:
        """One batch: half synthetic people (all phonemes), half GRID (real mouths), sometimes demo actors."""
        settings, rows = self.settings, []
        for _ in range(settings.batch):
            draw = random.random() - settings.synthetic_share
            source = "synthetic" if draw < 0 else "grid" if draw < settings.grid_share else "actors"
            pool = self.by_source.get(source) or [c for some in self.by_source.values() for c in some]
            rows.append(self._sequence(pool[random.integers(len(pool))], random))
        moved, upper, log_mel, rest, valid = (np.stack(x) for x in zip(*rows, strict=True))
        left = MEL_PER_AUDIO_FRAME * self.config.left_audio_frames
        right = MEL_PER_AUDIO_FRAME * RIGHT_AUDIO_FRAMES
        padded = np.pad(log_mel, ((0, 0), (left, right), (0, 0)), constant_values=SILENCE)
        numbers = [torch.from_numpy(x.astype(np.float32)) for x in (moved, upper, padded, rest)]
        return MotionBatch(*numbers, torch.from_numpy(valid))
