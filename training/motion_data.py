"""Sequences for the motion model: one person's clips stitched together, with silences and a changed voice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from mytalk.audio.speech import MEL_FRAMES_PER_FRAME, SILENCE
from mytalk.errors import BadInput
from mytalk.landmarks.layout import Layout, load_layout
from mytalk.landmarks.normalise import upper_displacement
from mytalk.models.motion_config import AUDIO_PER_FRAME, MEL_PER_AUDIO_FRAME, MotionConfig
from mytalk.models.sizes import ModelSize
from mytalk.types import F32
from training.data import HELD_OUT_TAIL, Clip, is_validation, list_clips
from training.non_speech import made_up
from training.sources import SourceDraw
from training.voices import NEPER_PER_DB, change_voice, mixed

SOUND_S, SOUND_SEED = 12.0, 5  # how long a made-up sound is; which ones they are


@dataclass(frozen=True, slots=True)
class MotionClip:
    """One clip, in the canonical frame.

    displacement f32 [F, Kc·x], upper f32 [F, U], log_mel f32 [4 F, 80], rest f32 [K, 3]; features: what the
    model hears, log_mel or pre-trained features [2 F, W].
    """

    clip: Clip
    displacement: F32
    upper: F32
    log_mel: F32
    rest: F32
    features: F32

    @property
    def source(self) -> str:
        """Where the clip is from."""
        return self.clip.source

    def beginning(self, frames: int) -> MotionClip:
        """Its first frames, or all of it where there are fewer."""
        rate = len(self.features) // len(self.displacement)
        return replace(
            self,
            displacement=self.displacement[:frames],
            upper=self.upper[:frames],
            log_mel=self.log_mel[: frames * MEL_FRAMES_PER_FRAME],
            features=self.features[: frames * rate],
        )


class MotionBatch(NamedTuple):
    """B sequences of F frames: padded at the end where they are shorter.

    float32: displacement [B, F, Kc·x], upper [B, F, U], features [B, left + n F + right, W] (log-mel: n = 4),
    rest [B, K, 3];
    valid bool [B, F], False where padded.
    """

    displacement: Tensor
    upper: Tensor
    features: Tensor
    rest: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True)
class MotionDraw:
    """How batches are drawn (TOML table ``[data]``).

    batch, frames: sequences of one batch and process, and their length. stitch: join clips of one person to
    full length, with silences; otherwise a sequence is one clip, cut or padded to ``frames`` (paper: 250).
    sources, other_sources: how often each source is drawn (``training.sources``); empty: every clip alike.
    change_voice: another room, telephone and vocal tract for every sequence.
    pause_share: sequences with a silence in them, empty_share: sequences in which nobody speaks at all.
    sounds: how many noises and pieces of music are made up (``training.non_speech``), to be heard in half of
    these silences, and under the speech of sound_share of the other sequences.
    """

    batch: int = 12
    frames: int = 200
    stitch: bool = True
    sources: dict[str, float] = field(default_factory=dict)
    other_sources: float = 1.0
    change_voice: bool = True
    pause_share: float = 0.5
    empty_share: float = 0.0
    sounds: int = 0
    sound_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that are none, and sounds that nobody made."""
        for name in ("pause_share", "empty_share", "sound_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"data.{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.sound_share and not self.sounds:
            raise BadInput("data.sound_share needs sounds: set data.sounds to how many, such as 200")


def _fitted(features: F32, count: int, quiet: float) -> F32:
    """The first ``count`` rows, filled up with ``quiet``."""
    short = max(0, count - len(features))
    return np.pad(features[:count], ((0, short), (0, 0)), constant_values=quiet).astype(np.float32)


def _features(clip: Clip, config: MotionConfig, frames: int, log_mel: F32) -> F32:
    """What the model hears: the log-mel, or NAME.speech.npy, features at 50 Hz made beforehand."""
    if config.speech == "log_mel":
        return log_mel
    path = clip.folder / f"{clip.name}.speech.npy"
    try:
        found: F32 = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"this size hears {config.speech} features, and {path} has none: {error}") from error
    if found.ndim != 2 or found.shape[1] != config.speech_width:
        raise BadInput(f"{path}: features [n, {config.speech_width}] wanted, found {found.shape}")
    return _fitted(found, frames * AUDIO_PER_FRAME, 0.0)


def load_motion_clip(
    clip: Clip, config: MotionConfig | None = None, layout: Layout | None = None
) -> MotionClip:
    """Read one prepared clip for a model (``tiny``); raises ``BadInput`` for a damaged or unfitting one."""
    layout, config = layout or load_layout(), config or MotionConfig()
    try:
        arrays = clip.arrays()
        canonical, rest, log_mel = arrays["canonical"], arrays["rest"], arrays["log_mel"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise BadInput(
            f"{clip.name} is damaged: delete it and run training.prepare again ({error})"
        ) from error
    if canonical.shape[1] != layout.points:
        raise BadInput(f"{clip.name} has {canonical.shape[1]} landmarks, {layout.name} has {layout.points}")
    frames = len(canonical) - (HELD_OUT_TAIL if clip.source == "actors" else 0)
    log_mel = _fitted(log_mel, frames * MEL_FRAMES_PER_FRAME, SILENCE)
    moved = (canonical[:frames, layout.compact] - rest[layout.compact])[..., : config.coordinates]
    return MotionClip(
        clip,
        moved.reshape(frames, -1).astype(np.float32),
        upper_displacement(canonical[:frames], rest, layout),
        log_mel,
        rest,
        _features(clip, config, frames, log_mel),
    )


def load_for_training(data: Path, size: ModelSize) -> list[MotionClip]:
    """All clips of a prepared folder that are not held out; raises ``BadInput`` if there are none."""
    clips = list_clips(data)
    kept = [clip for clip in clips if not is_validation(clip, clips)]
    if not kept:
        raise BadInput(f"{data} has no clips to train on: all {len(clips)} are held out")
    layout = load_layout(size.layout)
    return [
        load_motion_clip(clip, size.motion, layout) for clip in track(kept, "reading clips", transient=True)
    ]


class MotionBatches:
    """Draws batches of sequences; all randomness comes from the argument of ``draw``."""

    def __init__(self, clips: list[MotionClip], config: MotionConfig, settings: MotionDraw) -> None:
        self.settings, self.config = settings, config
        self.hears_mel = config.speech == "log_mel"
        self.rate = MEL_FRAMES_PER_FRAME if self.hears_mel else AUDIO_PER_FRAME
        self.draws = SourceDraw(clips, settings.sources, settings.other_sources)
        self.sounds = made_up(settings.sounds, SOUND_S, SOUND_SEED) if self.hears_mel else ()
        self.by_identity: dict[str, list[MotionClip]] = defaultdict(list)
        for clip in clips:
            self.by_identity[clip.clip.identity].append(clip)

    def _with_pause(self, moved: F32, log_mel: F32, length: int, random: np.random.Generator) -> None:
        """Overwrite ``length`` frames with silence and a closed mouth, eased in and out (in place)."""
        start = int(random.integers(0, len(moved) - length + 1))
        stop, step = start + length, MEL_FRAMES_PER_FRAME
        heard = slice(start * step, stop * step)
        room = random.uniform(SILENCE, -8.0)
        quiet = room + 0.4 * random.standard_normal((length * step, log_mel.shape[1]))
        if self.sounds and random.random() < 0.5:
            quiet = mixed(quiet, self._sound(length * step, random))
        log_mel[heard] = np.maximum(quiet, SILENCE)
        # The mouth closes just after the sound stops and opens just before it starts again, in 4 frames.
        ramp = np.minimum(1, np.arange(1, length + 1) / 4)
        weight = np.minimum(ramp if start else 1, ramp[::-1] if stop < len(moved) else 1)
        moved[start:stop] *= 1 - np.broadcast_to(weight, length)[:, None]

    def _pause(self, frames: int, random: np.random.Generator) -> int:
        """Frames of a sequence in which nobody speaks; 0: of most none."""
        kind = random.random()
        if kind < self.settings.empty_share:
            return frames
        if kind >= self.settings.empty_share + (1 - self.settings.empty_share) * self.settings.pause_share:
            return 0
        longest = max(4, min(60, frames // 2))
        return int(random.integers(min(15, longest - 1), longest))

    def _sound(self, length: int, random: np.random.Generator) -> F32:
        """``length`` log-mel frames of one of the sounds."""
        sound = self.sounds[random.integers(len(self.sounds))]
        return np.take(sound, np.arange(length) + random.integers(len(sound)), axis=0, mode="wrap")

    def _over_sound(self, log_mel: F32, random: np.random.Generator) -> F32:
        """Speech with one of the sounds under it, 0 to 30 dB below."""
        sound = self._sound(len(log_mel), random)
        speech_level, sound_level = (0.5 * np.log(np.exp(2 * x).mean()) for x in (log_mel, sound))
        below = NEPER_PER_DB * random.uniform(0, 30)
        return mixed(log_mel, (sound + (speech_level - sound_level - below)).astype(np.float32))

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
        return moved, upper, np.concatenate([p.features for p in pieces])

    def _sequence(self, clip: MotionClip, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Fields of ``MotionBatch`` for one row, without the audio's contexts."""
        frames, rate, stitch = self.settings.frames, self.rate, self.settings.stitch
        moved, upper, features = clip.displacement, clip.upper, clip.features
        if stitch:
            moved, upper, features = self._stitched(clip, random)
        start = int(random.integers(0, max(0, len(moved) - frames) + 1))
        stop = min(start + frames, len(moved))
        moved, upper = moved[start:stop].copy(), upper[start:stop]
        features = features[start * rate : stop * rate].copy()
        # Pauses and other voices are made in the log-mel; in learned features nobody knows how.
        pause = self._pause(len(moved), random) if stitch and self.hears_mel else 0
        if pause:
            self._with_pause(moved, features, pause, random)
        if self.settings.change_voice and self.hears_mel:
            features = change_voice(features, random)
        if self.hears_mel and pause < len(moved) and random.random() < self.settings.sound_share:
            features = self._over_sound(features, random)
        short = frames - len(moved)
        return (
            np.pad(moved, ((0, short), (0, 0))),
            np.pad(upper, ((0, short), (0, 0)), mode="edge"),
            _fitted(features, frames * rate, self._quiet()),
            clip.rest,
            np.arange(frames) < len(moved),
        )

    def _quiet(self) -> float:
        return SILENCE if self.hears_mel else 0.0

    def draw(self, random: np.random.Generator) -> MotionBatch:
        """One batch of clips by the weights of their sources."""
        return self.batch_of([self.draws.pick(random) for _ in range(self.settings.batch)], random)

    def batch_of(self, clips: list[MotionClip], random: np.random.Generator) -> MotionBatch:
        """A sequence of each clip."""
        rows = [self._sequence(clip, random) for clip in clips]
        moved, upper, features, rest, valid = (np.stack(x) for x in zip(*rows, strict=True))
        per_audio_frame = MEL_PER_AUDIO_FRAME if self.hears_mel else 1
        left = per_audio_frame * self.config.left_audio_frames
        right = per_audio_frame * self.config.right_audio_frames
        padded = np.pad(features, ((0, 0), (left, right), (0, 0)), constant_values=self._quiet())
        numbers = [torch.from_numpy(x.astype(np.float32)) for x in (moved, upper, padded, rest)]
        return MotionBatch(*numbers, torch.from_numpy(valid))
