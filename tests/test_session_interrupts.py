"""Interrupted speech: the voice stops with the next slice, the mouth closes, nothing old is shown."""

from __future__ import annotations

import numpy as np

from mytalk.types import MotionJob, PictureResult
from tests.fakes import make_pump, run_job, voice
from tests.session_helpers import heard, openness, push, talking


def test_an_interrupt_stops_the_voice_with_the_next_slice_and_closes_the_mouth() -> None:
    pump = make_pump(job_s=0.005)
    push(pump, voice(3.0, level=0.9))
    pump.run(25)
    before = len(pump.slices)
    played = pump.session.interrupt(pump.clock.now)
    assert played == len(heard(pump.slices))
    pump.run(10)
    after = pump.slices[before:]
    assert not any(s.samples.any() or s.speech_sample is not None for s in after)
    assert all(s.generation == 1 for s in after)
    assert [s.picture is None for s in after] == [False] * 4 + [True] * 6
    shown = openness(pump)
    assert shown[before - 1] > 0.1
    assert max(abs(np.diff(shown[before - 1 :]))) < 0.75 * shown[before - 1]
    events = pump.session.events()
    assert (events[-1].kind, events[-1].samples) == ("interrupted", played)
    assert max(abs(np.diff([s.clip_index for s in pump.slices]))) <= 1


def test_results_from_before_an_interrupt_are_never_shown() -> None:
    pump = make_pump()
    push(pump, voice(2.0))
    pump.run(10)
    while (job := pump.session.next_job()) is None or isinstance(job, MotionJob):
        if job is None:
            pump.step()
        else:
            pump.session.complete(job, run_job(pump.engine, job), pump.clock.now)
    pump.session.interrupt(pump.clock.now)
    assert pump.session.next_job() is None, "the old job is still in flight"
    marked = PictureResult(tuple(np.full((2, 2, 3), 99, np.uint8) for _ in job.frames))
    pump.session.complete(job, marked, pump.clock.now)
    pump.run(10)
    assert not any(s.picture is not None and (s.picture == 99).all() for s in pump.slices)


def test_speech_after_an_interrupt_is_a_new_utterance_that_starts_at_a_closed_mouth() -> None:
    pump = make_pump()
    push(pump, voice(2.0, level=0.9))
    pump.run(20)
    pump.session.interrupt(pump.clock.now)
    samples = voice(0.4, seed=5)
    push(pump, samples)
    pump.run(40)
    spoken = [s for s in talking(pump.slices) if s.generation == 1]
    assert spoken[0].speech_sample == 0
    assert np.array_equal(heard(spoken)[: len(samples)], samples)
    assert max(abs(np.diff(openness(pump)))) < 0.2


def test_an_interrupt_in_silence_changes_nothing_on_show() -> None:
    pump = make_pump()
    pump.run(3)
    assert pump.session.interrupt(pump.clock.now) == 0
    assert all(s.picture is None for s in pump.run(5))
