"""Speech that the motion model is run on: a sound file, or clips it has not seen, with their true mouths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mytalk.actors.actor import load_actor
from mytalk.audio.speech import LogMelState, log_mel
from mytalk.engines.engine import Engine
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import mouth_opening
from mytalk.types import F32
from mytalk.video.media import read_speech
from training.data import Clip, unseen_clips
from training.metrics_motion import Spans, closed_below, closed_spans, closing_spans
from training.offsets import correlation, lag_curve, loudness, pooled_offset
from training.streamed import opening, predicted_opening

__all__ = [
    "Spoken",
    "against_truth",
    "asked_opening",
    "heard_later_ms",
    "loudness",
    "of_clips",
    "of_sound",
    "opening",
]

if TYPE_CHECKING:
    from training.motion_data import MotionClip

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance: log_mel float32 [4 F, 80], upper face float32 [F, U], rest face float32 [K, 3].

    true: displacements float32 [F, Kc, 3] of who said it, None where nobody was filmed. spans: when the lips
    must close, None where nobody knows. upper is never the speaker's own: it would leak the mouth.
    """

    name: str
    log_mel: F32
    upper: F32
    rest: F32
    true: F32 | None = None
    spans: Spans | None = None

    @property
    def frames(self) -> int:
        """Video frames, 25 a second."""
        return len(self.upper)

    def opening(self, displacement: F32) -> F32:
        """Mouth opening float32 [F] of displacements [F, Kc, 3] on this face, inter-ocular distances."""
        layout = load_layout()
        faces = np.repeat(self.rest[None], len(displacement), axis=0)
        faces[:, layout.compact] += displacement
        return mouth_opening(faces, layout)

    def alike(self, made: F32, other: F32) -> float:
        """Correlation of the mouth openings of two displacements [F, Kc, 3]."""
        return correlation(self.opening(made), self.opening(other))


def of_sound(speech: Path, frames: int) -> Spoken:
    """The beginning of a sound file, said by a demo actor."""
    actor = load_actor(ROOT / "actors" / "ada")
    samples = np.concatenate(list(read_speech(speech, 16_000))).astype(np.float32) / 32768
    _, mel = log_mel(LogMelState.initial(), samples)
    frames = min(frames, len(mel) // 4)
    shown = actor.motion.order[np.arange(frames) % len(actor.motion.order)]
    return Spoken(speech.stem, mel[: 4 * frames], actor.upper[shown], actor.motion.rest)


def of_clips(data: Path, videos: Path | None, most: int, frames: int) -> list[Spoken]:
    """The first ``most`` unseen clips of every source of a prepared folder, ``frames`` long at most.

    videos: the folder that they were prepared from; phoneme times (or words) are looked for beside them.
    Raises ``BadInput`` when there are none.
    """
    from training.motion_data import load_motion_clip  # noqa: PLC0415 - needs torch, of the train extra

    by_source: dict[str, list[Clip]] = {}
    for clip in unseen_clips(data):
        by_source.setdefault(clip.source, []).append(clip)
    # evenly over the names, so that people are mixed
    chosen = [c for clips in by_source.values() for c in clips[:: max(1, len(clips) // most)][:most]]
    made = [_spoken(clip, load_motion_clip(clip).beginning(frames), videos) for clip in chosen]
    uppers = [one.upper for one in made]
    turned = [np.resize(uppers[i - 1], one.upper.shape) for i, one in enumerate(made)]
    return [replace(one, upper=upper) for one, upper in zip(made, turned, strict=True)]


def _spoken(clip: Clip, loaded: MotionClip, videos: Path | None) -> Spoken:
    frames = len(loaded.upper)
    spans = None
    if videos is not None:
        within = Path(*clip.name.split("__"))
        spans = closing_spans(videos / within)
    true = loaded.displacement.reshape(frames, -1, 3)
    return Spoken(clip.name, loaded.log_mel, loaded.upper, loaded.rest, true, spans)


def against_truth(said: Sequence[Spoken], made: Sequence[F32]) -> dict[str, float | None]:
    """Mean correlation with the true mouths, how wide those made move against them, and p, b, m closed.

    The share of p, b and m at which the lips close is that of all clips together.
    """
    correlations, ratios, closed, within = [], [], 0, 0
    for one, displacement in zip(said, made, strict=True):
        if one.true is None:
            continue
        correlations.append(one.alike(displacement, one.true))
        spread = float(one.opening(one.true).std())
        ratios.append(float(one.opening(displacement).std()) / max(spread, 1e-6))
        if one.spans:
            limit = closed_below(one.opening(one.true))
            found = closed_spans(one.opening(displacement), one.spans, limit)
            closed, within = closed + found[0], within + found[1]
    return {
        "mouth_correlation": round(float(np.mean(correlations)), 4) if correlations else None,
        "opening_ratio": round(float(np.mean(ratios)), 4) if ratios else None,
        "closure_rate": round(closed / within, 4) if within else None,
    }


def asked_opening(engine: Engine, log_mel_rows: F32, frames: int) -> F32:
    """Mouth opening float32 [frames] that log-mel [4 F, 80] alone asks for (``training.offsets``)."""
    return predicted_opening(engine, log_mel_rows, frames)


def heard_later_ms(heard: F32, seen: F32) -> tuple[float, float]:
    """By how much sound lags mouth, ms, and how well they agree there; both float32 [F] at 25 frames/s."""
    found = pooled_offset([lag_curve(heard, seen)])
    return found.offset_ms, found.correlation
