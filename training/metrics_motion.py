"""Motion metrics over detected landmarks: mouth correlation, landmark distance, closed lips at p, b and m."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mytalk.clock import FPS
from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import Poses, to_canonical
from mytalk.types import F32

CLOSING = frozenset("pbm")
QUIET_WORDS = frozenset({"sil", "sp"})  # GRID's marks for silence
UNITS_PER_S = 25_000  # of GRID's .align
MARGIN_S = 0.5 / FPS  # a frame belongs to a phoneme if its middle is within so much of it
CLOSED_SHARE = 0.15  # of the way from the person's closed mouth to their open one: closed, to the eye
CLOSED_FLOOR = 0.02  # inter-ocular distances; landmarks jitter by so much

Spans = list[tuple[float, float]]


def landmark_distance_pct(shown: F32, true: F32, poses: Poses) -> float:
    """Mean distance of the lower face's landmarks in percent of the inter-ocular distance.

    shown, true: float32 [F, 478, 3], pixels of the same frames. poses: the source's, of each frame.
    """
    compact = load_layout().compact
    apart = to_canonical(shown, poses)[:, compact, :2] - to_canonical(true, poses)[:, compact, :2]
    return float(100 * np.linalg.norm(apart, axis=-1).mean())


def closing_spans(video: Path) -> Spans | None:
    """Seconds (start, end) in which the lips must close once: NAME.json or NAME.align beside the video.

    NAME.json: p, b and m of its exact phoneme times. NAME.align: GRID words with b, p or m in them. None
    where there is neither. Raises ``BadInput`` for a file that cannot be read.
    """
    exact, words = video.with_suffix(".json"), video.with_suffix(".align")
    try:
        if exact.is_file():
            phonemes = json.loads(exact.read_text(encoding="utf-8")).get("phonemes")
            if phonemes is None:
                return None
            return [(float(start), float(end)) for name, start, end in phonemes if name in CLOSING]
        if words.is_file():
            rows = [line.split() for line in words.read_text(encoding="utf-8").splitlines() if line.strip()]
            return [
                (int(start) / UNITS_PER_S, int(end) / UNITS_PER_S)
                for start, end, word in rows
                if CLOSING & set(word) and word not in QUIET_WORDS
            ]
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{exact if exact.is_file() else words}: cannot be read ({error})") from error
    return None


def closed_below(opening: F32) -> float:
    """Opening under which a person's mouth counts as closed, from the source's openings float32 [F]."""
    shut, wide = np.quantile(opening, (0.03, 0.97))
    return float(shut + max(CLOSED_SHARE * (wide - shut), CLOSED_FLOOR))


def closed_spans(opening: F32, spans: Sequence[tuple[float, float]], threshold: float) -> tuple[int, int]:
    """How many of the spans have a closed mouth in them, and how many lie in the clip at all.

    opening: float32 [F] at 25 frames/s; frame n shows the mouth at (n + 0.5) / 25 s.
    """
    middles = (np.arange(len(opening)) + 0.5) / FPS
    closed = within = 0
    for start, end in spans:
        frames = opening[(middles >= start - MARGIN_S) & (middles <= end + MARGIN_S)]
        if len(frames):
            within += 1
            closed += bool(frames.min() <= threshold)
    return closed, within
