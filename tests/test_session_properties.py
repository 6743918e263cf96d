"""What must hold for any input: splits, arrival times, and a fuzz of every call against a small model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mytalk.clock import FRAME_S
from mytalk.config import SessionConfig
from mytalk.types import I16, AvSlice, FrameSpec
from tests.fakes import SessionPump, make_pump, voice

SAMPLES = 1920


def same_slices(one: Sequence[AvSlice], two: Sequence[AvSlice]) -> bool:
    def key(s: AvSlice) -> tuple[object, ...]:
        picture = None if s.picture is None else s.picture.tobytes()
        return s.slot, s.samples.tobytes(), picture, s.clip_index, s.speech_sample, s.late

    return [key(s) for s in one] == [key(s) for s in two]


def same_motion(one: Sequence[FrameSpec], two: Sequence[FrameSpec]) -> bool:
    pairs = list(zip(one, two, strict=True))
    return all(
        np.array_equal(a.displacement, b.displacement) and a.audio_peak == b.audio_peak for a, b in pairs
    )


def pushed(samples: I16, rate_hz: int, cuts: Sequence[int], job_s: float = 0.0) -> SessionPump:
    """All at one moment, in pieces, then played to the end."""
    pump = make_pump(job_s=job_s)
    for piece in np.split(samples, sorted(cuts)):
        pump.session.receive_speech(piece, rate_hz, now=pump.clock.now, live=False)
    pump.session.end_of_speech(pump.clock.now)
    pump.run(round(len(samples) / rate_hz / FRAME_S) + 25)
    assert pump.session.stats().state == "idle"
    return pump


@given(
    rate_hz=st.sampled_from([8_000, 22_050, 24_000, 48_000]),
    seconds=st.floats(0.01, 1.2),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
)
def test_any_split_gives_identical_slices(rate_hz: int, seconds: float, cuts: list[int]) -> None:
    samples = voice(max(0.001, seconds), rate_hz, level=0.8)
    whole = pushed(samples, rate_hz, [])
    split = pushed(samples, rate_hz, [min(cut, len(samples)) for cut in cuts])
    assert same_slices(whole.slices, split.slices)
    assert same_motion(whole.frames, split.frames)


@given(
    seconds=st.floats(0.2, 1.5),
    pieces=st.lists(st.integers(400, 12_000), min_size=1),
    job_s=st.floats(0, 0.015),
)
def test_streamed_is_all_at_once(seconds: float, pieces: list[int], job_s: float) -> None:
    """Speech that trickles in (in time or not) and slower jobs give the same sound and the same motion."""
    samples = voice(seconds, level=0.8)
    whole = pushed(samples, 48_000, [])
    pump = make_pump(SessionConfig(hold_frames=250), job_s=job_s)
    sent, step = 0, 0
    while sent < len(samples):
        piece = samples[sent : sent + pieces[step % len(pieces)]]
        pump.session.receive_speech(piece, 48_000, now=pump.clock.now, live=False)
        sent, step = sent + len(piece), step + 1
        pump.step()
    pump.session.end_of_speech(pump.clock.now)
    pump.run(60)
    sound = [s.samples for s in pump.slices if s.speech_sample is not None]
    assert np.array_equal(sound, [s.samples for s in whole.slices if s.speech_sample is not None])
    assert same_motion(whole.frames, pump.frames)
    assert pump.session.stats().late == 0


@given(level=st.floats(0.0, 1.0), seconds=st.floats(0.05, 1.5), cut=st.one_of(st.none(), st.integers(1, 50)))
def test_displacement_never_jumps(level: float, seconds: float, cut: int | None) -> None:
    """Idle → speech → idle, interrupted or not; the closing of an interrupt is the fastest move there is."""
    pump = make_pump()
    pump.run(2)
    pump.session.receive_speech(voice(seconds, level=level), 48_000, now=pump.clock.now, live=False)
    pump.session.end_of_speech(pump.clock.now)
    for slot in range(80):
        if slot == cut:
            pump.session.interrupt(pump.clock.now)
        pump.step()
    shown = [0.0 if s.picture is None else float(s.picture[0, 0, 1]) / 500.0 for s in pump.slices]
    assert shown[-1] == 0.0
    assert max(abs(np.diff(shown))) < 0.12
    assert pump.session.stats().late == 0


def state_bytes(root: object) -> int:
    """Bytes of all arrays that an object of ours holds, found through attributes and containers."""
    seen: set[int] = set()
    total, stack = 0, [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type)):
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            total += item.nbytes
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set)) or type(item).__name__ == "deque":
            stack += list(item)  # type: ignore[call-overload]
        elif type(item).__module__.startswith("mytalk"):
            names = [*getattr(item, "__dict__", {}), *getattr(type(item), "__slots__", ())]
            stack += [getattr(item, name) for name in names]
    return total


def test_a_long_session_stays_small() -> None:
    pump = make_pump(job_s=0.002)
    minute = voice(60.0)
    sizes = []
    for second in range(40):
        piece = minute[second * 48_000 : (second + 1) * 48_000]
        for half in np.split(piece, 2):
            pump.session.receive_speech(half, 48_000, now=pump.clock.now, live=False)
            pump.run(12 + (second % 2))
        sizes.append(state_bytes(pump.session))
    assert max(sizes[20:]) <= 1.5 * max(sizes[:10])
    assert max(sizes) < 4_000_000
