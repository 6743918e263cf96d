"""``TalkSession``: from speech that comes in to slices that go out, on a simulated clock."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mytalk.audio.resample import PcmResampler
from mytalk.clock import FRAME_S
from mytalk.config import SessionConfig
from mytalk.errors import BadInput, EngineFailed, Overloaded, SessionClosed
from mytalk.session import TalkSession
from mytalk.session.state import TRANSITIONS, Change, State
from mytalk.types import MotionJob, MotionResult, PictureJob
from tests.fakes import FAKE_SPEC, FakeEngine, fake_actor, make_pump, run_job, voice
from tests.session_helpers import heard, kinds, openness, push, talking


def test_idle_goes_on_for_ever_without_jobs() -> None:
    pump = make_pump(clip_frames=4)
    slices = pump.run(20)
    assert [s.slot for s in slices] == list(range(20))
    assert [s.clip_index for s in slices] == ([0, 1, 2, 3, 2, 1] * 4)[:20]
    assert all(s.picture is None and s.speech_sample is None and not s.samples.any() for s in slices)
    assert pump.engine.motion_calls == 0
    assert pump.session.stats().idle == 20


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 24_000, 44_100, 48_000])
def test_pushed_speech_is_played_whole_and_in_step(rate_hz: int) -> None:
    pump = make_pump(job_s=0.01)
    pump.run(3)
    samples = voice(1.01, rate_hz)
    arrived = pump.clock.now
    push(pump, samples, rate_hz)
    pump.run(60)
    spoken = talking(pump.slices)
    assert [s.speech_sample for s in spoken] == [1920 * i for i in range(len(spoken))]
    resampler = PcmResampler(rate_hz, 48_000)
    expected = np.concatenate([resampler.push(samples), resampler.flush()])
    assert np.array_equal(heard(pump.slices)[: len(expected)], expected)
    assert not heard(pump.slices)[len(expected) :].any()
    waited = 1000.0 + spoken[0].slot * FRAME_S - arrived
    assert SessionConfig().pushed_start_s - 1e-6 <= waited < SessionConfig().pushed_start_s + FRAME_S + 1e-6
    assert not any(s.late for s in spoken)
    assert all(s.slack_s > 0 if s.slack_s is not None else s.picture is None for s in spoken)
    events = pump.session.events()
    assert [e.kind for e in events] == ["speech_started", "speech_ended"]
    assert events[1].samples == len(expected) == pump.session.stats().played_samples
    assert pump.session.stats().state == "idle"


def test_the_mouth_moves_from_idle_through_speech_to_idle_without_a_jump() -> None:
    pump = make_pump()
    push(pump, voice(1.5, level=0.9))
    pump.run(70)
    shown = openness(pump)
    assert max(shown) > 0.25
    assert max(abs(np.diff(shown))) < 0.1
    assert [s.clip_index for s in pump.slices] == [fake_actor().clip_index(i) for i in range(70)]


def test_the_first_job_continues_from_the_idle_face() -> None:
    pump = make_pump()
    push(pump, voice(0.5))
    first = pump.session.next_job()
    assert isinstance(first, MotionJob)
    assert first.known is not None
    assert first.known.shape == (4, 20, 3)
    assert not first.known.any()
    assert (first.position, first.hop, first.tokens) == (4, 2, 3)
    pump.session.complete(first, run_job(pump.engine, first), pump.clock.now)
    pictures = pump.session.next_job()
    assert isinstance(pictures, PictureJob)
    assert pump.session.next_job() is None, "one job in flight at most"
    pump.session.complete(pictures, run_job(pump.engine, pictures), pump.clock.now)
    second = pump.session.next_job()
    assert isinstance(second, MotionJob)
    assert second.known is None
    assert (second.position, second.state.known) == (6, 6)


def test_work_ahead_is_bounded() -> None:
    pump = make_pump()
    push(pump, voice(10.0))
    pump.work(pump.clock.now)
    assert len(pump.frames) == SessionConfig().ahead_frames


def test_a_start_waits_for_its_first_pictures_and_the_clip_stands_still() -> None:
    pump = make_pump(job_s=0.15)
    push(pump, voice(0.3))
    pump.run(30)
    first = talking(pump.slices)[0]
    assert first.slot > 4
    assert not first.late
    assert pump.session.stats().held > 0
    clip = [s.clip_index for s in pump.slices[: first.slot + 1]]
    assert max(abs(np.diff(clip))) <= 1


def test_a_start_that_waits_too_long_goes_on_without_pictures() -> None:
    pump = make_pump(SessionConfig(start_wait_s=0.2), job_s=60.0)
    samples = voice(0.5)
    push(pump, samples)
    pump.run(40)
    assert np.array_equal(heard(pump.slices)[: len(samples)], samples)
    assert all(s.late and s.picture is None for s in talking(pump.slices))
    assert pump.session.stats().late == len(talking(pump.slices))


@pytest.mark.parametrize("job_s", [0.045, 0.06, 0.08, 0.1, 0.13])
def test_a_face_that_cannot_keep_up_stutters_but_does_not_freeze(job_s: float) -> None:
    """Jobs take longer than their frames last: the voice goes on and the face moves on as well as it can."""
    pump = make_pump(job_s=job_s)
    push(pump, voice(6.0))
    pump.run(200)
    spoken = talking(pump.slices)
    longest = max(len(list(run)) for _, run in itertools.groupby(id(s.picture) for s in spoken))
    assert longest <= 16
    assert len({id(s.picture) for s in spoken}) > len(spoken) / 8
    assert any(s.late for s in spoken)
    assert not all(s.late for s in spoken)


def test_late_pictures_repeat_the_previous_one_and_never_delay_the_voice() -> None:
    pump = make_pump(job_s=0.06)
    samples = voice(3.0)
    push(pump, samples)
    pump.run(120)
    spoken = talking(pump.slices)
    assert [s.slot for s in spoken] == list(range(spoken[0].slot, spoken[0].slot + len(spoken)))
    assert np.array_equal(heard(pump.slices)[: len(samples)], samples)
    late = [s for s in spoken if s.late]
    assert late
    assert len(late) < len(spoken)
    runs = [key for key, _ in itertools.groupby(id(s.picture) for s in spoken)]
    assert len(runs) == len(set(runs)), "what was replaced never comes back"
    for s in late:
        assert s.slack_s is not None
        assert s.slack_s < 0
    assert pump.session.stats().late == len(late) == pump.session.stats().repeated


def test_hopeless_motion_skips_ahead_and_stays_bounded() -> None:
    pump = make_pump(SessionConfig(start_wait_s=0.0), job_s=0.3)
    samples = voice(12.0)
    push(pump, samples)
    pump.run(400)
    assert pump.session.stats().skipped_frames > 0
    assert "skipped" in kinds(pump)
    assert np.array_equal(heard(pump.slices)[: len(samples)], samples)
    assert pump.session.stats().state == "idle"


def test_utterances_queue_in_order() -> None:
    pump = make_pump()
    first, second = voice(0.5, seed=1), voice(0.7, seed=2)
    push(pump, first)
    push(pump, second)
    pump.run(80)
    events = [(e.kind, e.utterance, e.samples) for e in pump.session.events()]
    assert events == [
        ("speech_started", 0, 0),
        ("speech_ended", 0, len(first)),
        ("speech_started", 1, 0),
        ("speech_ended", 1, len(second)),
    ]
    starts = [i for i, s in enumerate(talking(pump.slices)) if s.speech_sample == 0]
    sound = heard(pump.slices)
    assert np.array_equal(sound[: len(first)], first)
    assert np.array_equal(sound[starts[1] * 1920 :][: len(second)], second)
    slots = [s.slot for s in talking(pump.slices)]
    assert slots == list(range(slots[0], slots[0] + len(slots))), "no gap between them"


def test_starved_pushed_speech_pauses_closes_the_mouth_and_resumes() -> None:
    pump = make_pump()
    samples = voice(2.0, level=0.9)
    push(pump, samples[:30_000], end=False)
    pump.run(60)
    assert pump.slices[-1].picture is None, "the mouth has closed"
    push(pump, samples[30_000:])
    pump.run(70)
    assert np.array_equal(heard(pump.slices)[: len(samples)], samples)
    assert [s.speech_sample for s in talking(pump.slices)][-1] == (len(talking(pump.slices)) - 1) * 1920
    assert kinds(pump) == ["speech_started", "starved", "resumed", "speech_ended"]
    assert max(abs(np.diff(openness(pump)))) < 0.2
    assert pump.session.stats().late == 0


def test_a_short_pause_holds_the_picture() -> None:
    pump = make_pump()
    samples = voice(2.0, level=0.9)
    push(pump, samples[:48_000], end=False)
    while "starved" not in kinds(pump):
        pump.step()
    push(pump, samples[48_000:])
    pump.run(60)
    assert np.array_equal(heard(pump.slices)[: len(samples)], samples)
    assert pump.session.stats().closing == 0
    assert 1 <= pump.session.stats().held <= 3


def test_too_much_speech_is_refused_and_nothing_of_it_is_taken() -> None:
    pump = make_pump(SessionConfig(push_buffer_s=1.0, max_utterances=2))
    push(pump, voice(0.6), end=False)
    with pytest.raises(Overloaded):
        push(pump, voice(0.5), end=False)
    assert pump.session.stats().buffered_s == pytest.approx(0.6)
    push(pump, voice(0.1))
    push(pump, voice(0.1))
    with pytest.raises(Overloaded, match="2 utterances"):
        push(pump, voice(0.1))


def test_bad_speech_is_refused_and_nothing_is_changed() -> None:
    pump = make_pump()
    session, now = pump.session, pump.clock.now
    for samples, rate_hz in [
        (np.zeros((2, 10), np.int16), 48_000),
        (np.zeros(10, np.float32), 48_000),
        (np.zeros(10, np.int16), 1_000),
    ]:
        with pytest.raises(BadInput):
            session.receive_speech(samples, rate_hz, now=now, live=False)  # type: ignore[arg-type]
    session.receive_speech(np.zeros(0, np.int16), 48_000, now=now, live=False)
    assert session.stats().state == "idle"
    push(pump, voice(0.1), end=False)
    with pytest.raises(BadInput, match="end it first"):
        push(pump, voice(0.1, 16_000), 16_000)
    assert session.stats().buffered_s == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [MotionJob, PictureJob])
def test_a_failed_job_repeats_the_previous_picture_and_the_session_goes_on(kind: type) -> None:
    pump = make_pump()
    samples = voice(2.0)
    push(pump, samples)
    pump.run(20)
    failed = 0
    for _ in range(60):
        while (job := pump.session.next_job()) is not None:
            if isinstance(job, kind) and not failed:
                failed += 1
                pump.session.fail(job, EngineFailed("boom"), pump.clock.now)
            else:
                pump.session.complete(job, run_job(pump.engine, job), pump.clock.now)
        pump.step()
    assert np.array_equal(heard(pump.slices)[: len(samples)], samples)
    assert [s.late for s in pump.slices].count(True) == 2, "the frames of one hop"
    events = pump.session.events()
    assert [e.detail for e in events if e.kind == "job_failed"] == ["EngineFailed: boom"]
    assert pump.session.stats().failed_jobs == 1
    assert pump.session.stats().state == "idle"


def test_a_result_of_the_wrong_shape_counts_as_failed() -> None:
    pump = make_pump()
    push(pump, voice(0.5))
    job = pump.session.next_job()
    assert isinstance(job, MotionJob)
    pump.session.complete(job, MotionResult(np.zeros((1, 20, 3), np.float32), job.state), pump.clock.now)
    picture_job = pump.session.next_job()
    assert isinstance(picture_job, MotionJob)
    assert picture_job.known is not None, "motion starts again"
    with pytest.raises(ValueError, match="not in flight"):
        pump.session.complete(job, run_job(pump.engine, job), pump.clock.now)
    assert kinds(pump) == ["job_failed"]


def test_a_stall_of_the_caller_moves_the_clock_instead_of_a_burst() -> None:
    pump = make_pump()
    pump.run(5)
    pump.clock.advance(2.0)
    burst = pump.session.slices_due(pump.clock.now)
    assert [s.slot for s in burst] == list(range(5, 5 + SessionConfig().max_burst_slots))
    assert 0 <= pump.session.next_due() - pump.clock.now <= FRAME_S + 1e-6
    assert pump.session.stats().stalled_s == pytest.approx(1.8, abs=0.05)


def test_a_closed_session_is_quiet() -> None:
    pump = make_pump()
    push(pump, voice(1.0))
    pump.run(10)
    job = pump.session.next_job()
    pump.session.close()
    pump.session.close()
    if job is not None:
        pump.session.complete(job, run_job(pump.engine, job), pump.clock.now)
    assert pump.session.next_job() is None
    assert pump.session.slices_due(pump.clock.now + 1.0) == []
    assert pump.session.interrupt(pump.clock.now) == 0
    pump.session.end_of_speech(pump.clock.now)
    with pytest.raises(SessionClosed):
        push(pump, voice(0.1))
    assert pump.session.stats().state == "closed"


def test_a_hop_must_fit_the_engine() -> None:
    engine = FakeEngine()
    config = SessionConfig(hop_frames=6, lookahead_frames=3)
    with pytest.raises(BadInput, match="8 tokens"):
        TalkSession(fake_actor(), FAKE_SPEC, engine.initial_state(), config, seed=0, now=0.0)


def test_the_seed_alone_changes_the_noise() -> None:
    noises = []
    for seed in (1, 1, 2):
        pump = make_pump(seed=seed)
        push(pump, voice(0.5))
        job = pump.session.next_job()
        assert isinstance(job, MotionJob)
        noises.append(job.noise)
    assert np.array_equal(noises[0], noises[1])
    assert not np.array_equal(noises[0], noises[2])


def test_every_state_can_be_closed_and_none_is_left_once_closed() -> None:
    for state in State:
        assert ((state, Change.CLOSE) in TRANSITIONS) == (state is not State.CLOSED)
    assert not any(state is State.CLOSED for state, _ in TRANSITIONS)
