"""What tests of ``TalkSession`` say to one and look at of what it played."""

from __future__ import annotations

import numpy as np

from mytalk.types import I16, AvSlice
from tests.fakes import SessionPump


def push(pump: SessionPump, samples: I16, rate_hz: int = 48_000, *, end: bool = True) -> None:
    pump.session.receive_speech(samples, rate_hz, now=pump.clock.now, live=False)
    if end:
        pump.session.end_of_speech(pump.clock.now)


def talking(slices: list[AvSlice]) -> list[AvSlice]:
    return [s for s in slices if s.speech_sample is not None]


def heard(slices: list[AvSlice]) -> I16:
    return np.concatenate([s.samples for s in talking(slices)] or [np.zeros(0, np.int16)])


def kinds(pump: SessionPump) -> list[str]:
    return [event.kind for event in pump.session.events()]


def openness(pump: SessionPump) -> list[float]:
    """What was on show in each slice, 0 for the idle face (see ``fake_picture``)."""
    return [0.0 if s.picture is None else float(s.picture[0, 0, 1]) / 500.0 for s in pump.slices]
