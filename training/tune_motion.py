"""How wide a person opens the mouth, over what the motion model makes of the same speech.

What depends on the person in motion is foremost its size: the model, which has heard few people, moves
everybody's mouth about alike. One number, measured on the person's own clip, scales what it says
(``mytalk.actors.tuned``); a closed mouth stays closed, since displacements are measured from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.actors.tuned import OPENINGS
from mytalk.clock import PLAYOUT_RATE, PLAYOUT_SAMPLES_PER_FRAME
from mytalk.dubbing.motion import speech_motion
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import mouth_opening
from mytalk.types import F32, I16
from mytalk.video.media import read_speech

FEWEST_FRAMES = 50  # two seconds
STILL = 1e-4  # spread of openings, canonical units, below which a mouth does not talk
MOST_LAG = 6  # frames by which sound and picture of a video may be apart
# Below it the halves of one clip do not agree (0.42: 0.8, 0.63: 1.4): a voice-over, music, a noisy room.
LEAST_CORRELATION = 0.65


@dataclass(frozen=True, slots=True, eq=False)
class Talk:
    """A part of a video in which a person talks, F frames.

    speech: int16 [1920 F] or fewer, 48 kHz mono. upper: float32 [F, U]. rest: float32 [K, 3], canonical.
    opening: float32 [F], as filmed, canonical units. shown: bool [F], where the mouth can be seen.
    """

    speech: I16
    upper: F32
    rest: F32
    opening: F32
    shown: npt.NDArray[np.bool_]


def talk_of_video(
    video: Path, first: int, upper: F32, rest: F32, opening: F32, shown: npt.NDArray[np.bool_]
) -> Talk | None:
    """The frames of a video from ``first`` on, 25 a second, with their sound; None where it has none."""
    begin, end = (frame * PLAYOUT_SAMPLES_PER_FRAME for frame in (first, first + len(opening)))
    kept, place = [np.zeros(0, np.int16)], 0
    try:
        for block in read_speech(video, PLAYOUT_RATE):
            kept.append(block[max(0, begin - place) : max(0, end - place)])
            place += len(block)
            if place >= end:
                break
    except BadInput:
        return None
    return Talk(np.concatenate(kept), upper, rest, opening, shown)


def _seconds(speech: I16) -> Iterator[I16]:
    for begin in range(0, len(speech), PLAYOUT_RATE):
        yield speech[begin : begin + PLAYOUT_RATE]


def share_of(filmed: F32, made: F32, seen: npt.NDArray[np.bool_]) -> float:
    """How wide the filmed openings [F] are over the made ones [F], both above a closed mouth, within bounds.

    seen: bool [F], where the filmed ones are known. Between the ratio of their spreads, which makes mouths
    alike, and the least-squares factor, which makes errors small; 1 where the two have little to do with each
    other, however the sound may be out of step.
    """
    best, share = LEAST_CORRELATION, 1.0
    for lag in range(-MOST_LAG, MOST_LAG + 1):
        rows = np.flatnonzero(seen)
        rows = rows[(rows - lag >= 0) & (rows - lag < len(made))]
        own, ours = filmed[rows], made[rows - lag]
        if len(rows) < FEWEST_FRAMES or min(own.std(), ours.std()) < STILL:
            continue
        correlation = float(np.corrcoef(own, ours)[0, 1])
        if correlation > best:
            best, share = correlation, float(own.std() / ours.std()) * correlation**0.5
    return float(np.clip(share, *OPENINGS))


def opening_share(engine: Engine, talk: Talk | None) -> float:
    """The factor for a person; 1.0 where nothing can be told of it. Raises what the engine raises."""
    # What is filmed after the sound has ended says nothing.
    frames = 0 if talk is None else min(len(talk.opening), len(talk.speech) // PLAYOUT_SAMPLES_PER_FRAME)
    if talk is None or frames < FEWEST_FRAMES:
        return 1.0
    layout = load_layout()
    identity = engine.identity(np.ascontiguousarray(talk.rest[:, :2]))
    moved = np.stack(
        list(speech_motion(_seconds(talk.speech), frames, talk.upper[:frames], engine, identity))
    )
    faces = np.repeat(talk.rest[None], frames, axis=0)
    faces[:, layout.compact] += moved
    closed = mouth_opening(talk.rest[None], layout)[0]
    filmed, made = talk.opening[:frames] - closed, mouth_opening(faces, layout) - closed
    return share_of(filmed, made, talk.shown[:frames])
