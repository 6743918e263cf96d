"""How much the sound of a clip lags its picture: what the lips do against what the speech asks of them.

Two statistics of the speech can be set against the detected mouth opening: the loudness envelope, which needs
no model and is blunt, and the opening that the motion model predicts from the speech alone, which is sharp
(on clips with exact times: within 10 ms). Positive offsets mean that the sound comes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mytalk.audio.speech import MEL_FRAMES_PER_FRAME, SILENCE
from mytalk.clock import FPS
from mytalk.types import F32

STEP_MS = 10  # of the lags tried; one log-mel frame
REACH_MS = 600  # longest lag tried, either way
DRIFT_FRAMES = 50  # slower changes of the opening (a smile, a yawn) say nothing about timing
STEPS_PER_FRAME = 1000 // FPS // STEP_MS


@dataclass(frozen=True, slots=True)
class LagCurve:
    """How well lips and speech agree at every lag: lags_ms int32 [L], score float32 [L]; frames compared."""

    lags_ms: npt.NDArray[np.int32]
    score: F32
    frames: int


@dataclass(frozen=True, slots=True)
class Offset:
    """offset_ms: how much the sound lags the picture. correlation: at that lag. clips: how many pooled."""

    offset_ms: float
    correlation: float
    clips: int


def loudness(log_mel: F32, frames: int) -> F32:
    """Loudness envelope float32 [frames] of log-mel [n, 80]; silence where there is no more sound."""
    level = np.full(frames * MEL_FRAMES_PER_FRAME, SILENCE, np.float32)
    heard = log_mel[: len(level)].mean(axis=1)
    level[: len(heard)] = heard
    return level.reshape(frames, MEL_FRAMES_PER_FRAME).mean(axis=1)


def _without_drift(values: F32) -> F32:
    window = min(DRIFT_FRAMES, len(values)) // 2
    padded = np.pad(values.astype(np.float64), window, mode="edge")
    slow = np.convolve(padded, np.ones(2 * window + 1) / (2 * window + 1), "valid")
    return (values - slow).astype(np.float32)


def correlation(a: F32, b: F32) -> float:
    """Pearson's correlation; 0 where one of the two does not change."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-6 and b.std() > 1e-6 else 0.0


def lag_curve(heard: F32, seen: F32, reach_ms: int = REACH_MS) -> LagCurve:
    """Agreement of what is heard with what is seen, both float32 [F] at 25 frames/s, at every lag.

    A lag of +40 ms compares frame n's picture with what is heard 40 ms later. Scores are correlations, shrunk
    where little of the clip overlaps, so that the ends of a short clip do not win by chance.
    """
    count = min(len(heard), len(seen))
    fine = np.arange(0, count - 1, 1 / STEPS_PER_FRAME)
    sound, lips = (
        np.interp(fine, np.arange(count), _without_drift(x[:count])).astype(np.float32) for x in (heard, seen)
    )
    reach = min(reach_ms // STEP_MS, len(fine) // 2)
    lags, score = np.arange(-reach, reach + 1), []
    for lag in lags:
        later = sound[max(0, lag) : len(fine) + min(0, lag)]
        now = lips[max(0, -lag) : len(fine) - max(0, lag)]
        score.append(correlation(later, now) * float(np.sqrt(len(now) / len(fine))))
    return LagCurve((lags * STEP_MS).astype(np.int32), np.array(score, np.float32), count)


def pooled_offset(curves: Sequence[LagCurve]) -> Offset:
    """The offset that clips of one person (one recording set-up) agree on, between the lags by a parabola."""
    reach = min(len(curve.lags_ms) for curve in curves) // 2
    middle = [slice(len(c.lags_ms) // 2 - reach, len(c.lags_ms) // 2 + reach + 1) for c in curves]
    weight = np.array([c.frames for c in curves], np.float64)
    score = np.average([c.score[m] for c, m in zip(curves, middle, strict=True)], axis=0, weights=weight)
    lags, best = curves[0].lags_ms[middle[0]], int(np.argmax(score))
    shift = 0.0
    if 0 < best < len(score) - 1:
        before, at, after = score[best - 1 : best + 2]
        bend = before - 2 * at + after
        shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return Offset(float(lags[best] + shift * STEP_MS), float(score[best]), len(curves))


def moved_sound(log_mel: F32, offset_ms: float) -> F32:
    """Log-mel [n, 80] with the offset taken out: late sound is moved forward, and silence fills the gap."""
    rows = round(offset_ms / STEP_MS)
    moved = np.full_like(log_mel, SILENCE)
    if rows >= 0:
        moved[: len(log_mel) - rows] = log_mel[rows:]
    else:
        moved[-rows:] = log_mel[:rows]
    return moved
