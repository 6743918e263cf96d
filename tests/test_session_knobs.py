"""The latency/quality knob, turned while speech plays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk.config import SessionConfig
from mytalk.errors import BadInput
from mytalk.session.knobs import Knobs, check_knobs, hop_start, hops_end, needed_delay_s
from mytalk.types import MotionJob
from tests.fakes import FAKE_SPEC, make_pump, voice
from tests.test_session_plan import jobs_of, recording_pump

KNOBS = st.tuples(st.integers(1, 4), st.integers(0, 4), st.sampled_from([0, 1, 2, 4]))


def shown(jobs: list[MotionJob]) -> list[tuple[int, int, int]]:
    return [(job.hop, job.tokens - job.hop, job.steps or 0) for job in jobs]


def test_knobs_hold_from_the_next_hop_on() -> None:
    pump = recording_pump(SessionConfig(rest_after_frames=0))
    pump.session.receive_speech(voice(2.0), 48_000, now=pump.clock.now, live=False)
    pump.run(8)
    before = len(jobs_of(pump))
    pump.session.configure(hop=4, lookahead=3, steps=4)
    pump.session.receive_speech(voice(1.0), 48_000, now=pump.clock.now, live=False)
    pump.run(30)
    made = shown(jobs_of(pump))
    assert set(made[:before]) == {(2, 1, 2)}
    assert set(made[before:]) == {(4, 3, 4)}
    positions = [job.position for job in jobs_of(pump)]
    assert np.array_equal(np.diff(positions), [job.hop for job in jobs_of(pump)][:-1])


@pytest.mark.parametrize("wrong", [{"hop": 0}, {"hop": 8}, {"lookahead": -1}, {"steps": 3}, {"hop": 2.5}])
def test_what_cannot_be_is_refused_and_changes_nothing(wrong: dict[str, int]) -> None:
    pump = recording_pump(SessionConfig(rest_after_frames=0))
    with pytest.raises(BadInput):
        pump.session.configure(**wrong)
    pump.session.receive_speech(voice(1.0), 48_000, now=pump.clock.now, live=False)
    pump.session.end_of_speech(pump.clock.now)
    pump.run(40)
    assert set(shown(jobs_of(pump))) == {(2, 1, 2)}


@given(turns=st.lists(st.tuples(st.integers(1, 20), KNOBS), max_size=6), seconds=st.floats(0.2, 2.0))
def test_turning_the_knob_at_random_breaks_neither_sound_nor_motion(
    turns: list[tuple[int, tuple[int, int, int]]], seconds: float
) -> None:
    pump = make_pump()
    samples = voice(seconds, level=0.8)
    for piece in np.array_split(samples, len(turns) + 1):
        pump.session.receive_speech(piece, 48_000, now=pump.clock.now, live=False)
        if turns:
            slots, (hop, lookahead, steps) = turns.pop()
            pump.session.configure(hop=hop, lookahead=lookahead, steps=steps)
            pump.run(slots)
    pump.session.end_of_speech(pump.clock.now)
    pump.run(120)
    assert pump.session.stats().state == "idle"
    assert pump.session.stats().late == 0
    assert [s.slot for s in pump.slices] == list(range(len(pump.slices)))
    sound = np.concatenate([s.samples for s in pump.slices if s.speech_sample is not None])
    assert np.array_equal(sound[: len(samples)], samples)
    assert not sound[len(samples) :].any()
    openness = [0.0 if s.picture is None else float(s.picture[0, 0, 1]) / 500.0 for s in pump.slices]
    assert max(abs(np.diff(openness))) < 0.12
    assert openness[-1] == 0.0


def test_the_fewest_steps_are_taken_when_the_device_cannot_keep_up() -> None:
    pump = recording_pump(SessionConfig(rest_after_frames=0))
    pump.session.economise(hop_factor=1, picture_every=1, fewest_steps=True)
    pump.session.receive_speech(voice(1.0), 48_000, now=pump.clock.now, live=False)
    pump.run(10)
    pump.session.economise(hop_factor=1, picture_every=1)
    pump.run(20)
    made = [steps for _, _, steps in shown(jobs_of(pump))]
    assert (made[0], made[-1]) == (1, 2)
    assert made == sorted(made)


def test_a_live_delay_follows_the_knob() -> None:
    pump = make_pump()
    before = pump.session.stats().live.target_s
    pump.session.configure(hop=4, lookahead=4)
    longer = pump.session.stats().live.target_s
    pump.session.configure(hop=1, lookahead=1)
    assert pump.session.stats().live.target_s == before < longer
    config = SessionConfig(hop_frames=4, lookahead_frames=4)
    assert longer >= needed_delay_s(config, FAKE_SPEC) > 0.33


def test_hops_are_counted_from_their_border() -> None:
    assert [hop_start(3, frame, 2) for frame in (3, 4, 5, 8)] == [3, 3, 5, 7]
    assert [hops_end(3, frames, 2) for frames in (3, 4, 5, 8)] == [3, 5, 5, 9]
    with pytest.raises(BadInput, match="steps must be one of 1, 2, 4"):
        check_knobs(replace(SessionConfig(), steps=3), FAKE_SPEC)


def test_a_hop_that_is_asked_for_is_that_of_live_and_of_pushed_speech() -> None:
    knobs = Knobs(SessionConfig(), FAKE_SPEC)
    assert (knobs.live.hop_frames, knobs.pushed.hop_frames, knobs.as_dict()["hop"]) == (1, 2, 1)
    asked = knobs.turned(3, None, None)
    assert (asked.live.hop_frames, asked.pushed.hop_frames, asked.as_dict()["hop"]) == (3, 3, 3)
    assert knobs.turned(None, 2, 4).live == SessionConfig(lookahead_frames=2, steps=4).for_live
    with pytest.raises(BadInput, match="must not exceed"):
        Knobs(SessionConfig(live_hop_frames=5, lookahead_frames=4), FAKE_SPEC)
