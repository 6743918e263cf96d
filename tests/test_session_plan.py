"""What the jobs of a session carry: speech contexts, upper face, noise, memory, and the closing mouth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mytalk.audio.resample import PcmResampler
from mytalk.audio.speech import LogMelState, log_mel
from mytalk.config import SessionConfig
from mytalk.errors import BadInput, EngineFailed
from mytalk.motion import hop_noise, mel_context
from mytalk.session import TalkSession
from mytalk.session.plan import PictureTrack
from mytalk.session.rest import closing_weights
from mytalk.types import F32, I16, FrameSpec, MotionJob, MotionResult
from tests.fakes import FAKE_SPEC, FakeClock, FakeEngine, SessionPump, fake_actor, make_pump, run_job, voice

SEED = 7


class RecordingEngine(FakeEngine):
    """Keeps the motion jobs; ``stuck_open`` ignores the speech and keeps the mouth wide open."""

    def __init__(self, stuck_open: bool = False) -> None:
        super().__init__()
        self.jobs: list[MotionJob] = []
        self.stuck_open = stuck_open

    def motion(self, jobs: Sequence[MotionJob]) -> list[MotionResult]:
        self.jobs.extend(jobs)
        results = super().motion(jobs)
        if self.stuck_open:
            results = [MotionResult(np.ones_like(r.displacement), r.state) for r in results]
        return results


def recording_pump(config: SessionConfig | None = None, *, stuck_open: bool = False) -> SessionPump:
    engine, clock = RecordingEngine(stuck_open), FakeClock()
    state = engine.initial_state()
    session = TalkSession(
        fake_actor(), engine.spec, state, config or SessionConfig(), seed=SEED, now=clock.now
    )
    return SessionPump(session, engine, clock)


def jobs_of(pump: SessionPump) -> list[MotionJob]:
    assert isinstance(pump.engine, RecordingEngine)
    return pump.engine.jobs


def push(pump: SessionPump, samples: I16, rate_hz: int = 48_000) -> None:
    pump.session.receive_speech(samples, rate_hz, now=pump.clock.now, live=False)
    pump.session.end_of_speech(pump.clock.now)


def offline_mel(samples: I16, rate_hz: int) -> F32:
    """Log-mel of the whole utterance and two seconds of silence after it."""
    resampler = PcmResampler(rate_hz, 16_000)
    whole = np.concatenate([resampler.push(samples), resampler.flush(), np.zeros(32_000, np.int16)])
    return log_mel(LogMelState.initial(), whole.astype(np.float32) / np.float32(32768))[1]


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100])
def test_streamed_contexts_are_the_offline_ones_bit_for_bit(rate_hz: int) -> None:
    pump = recording_pump()
    samples = voice(1.13, rate_hz)
    push(pump, samples, rate_hz)
    pump.run(60)
    mel = offline_mel(samples, rate_hz)
    for hop, job in enumerate(jobs_of(pump)):
        end = (2 * hop + 3) * 4 + FAKE_SPEC.mel_right  # what lies after hop + lookahead is not heard
        assert np.array_equal(job.log_mel, mel_context(mel[:end], 0, 2 * hop, FAKE_SPEC))


def test_every_hop_gets_its_noise_upper_face_and_place() -> None:
    pump = recording_pump()
    pump.run(6)
    push(pump, voice(0.6))
    pump.run(40)
    actor = fake_actor()
    first = next(s for s in pump.slices if s.speech_sample == 0)
    for hop, job in enumerate(jobs_of(pump)):
        assert np.array_equal(job.noise, hop_noise(SEED, 0, 2 * hop, 8, FAKE_SPEC.coefficients))
        clips = [actor.clip_index(first.slot + 2 * hop + min(i, 2)) for i in range(8)]
        assert np.array_equal(job.upper, actor.upper[clips])
        assert job.position == 4 + 2 * hop
        assert (job.known is None) == (hop > 0)
    known_upper = jobs_of(pump)[0].known_upper
    assert known_upper is not None
    before = [actor.clip_index(first.slot - 4 + i) for i in range(4)]
    assert np.array_equal(known_upper, actor.upper[before])


def test_a_mouth_that_will_not_close_is_closed_by_the_fade() -> None:
    pump = recording_pump(stuck_open=True)
    push(pump, voice(0.4))
    pump.run(40)
    last = [f.displacement[0, 0] for f in pump.frames[-5:] if f.displacement is not None]
    assert last == pytest.approx([1.0, *closing_weights(4)])


def test_an_utterance_right_after_another_continues_from_what_is_shown() -> None:
    pump = recording_pump(stuck_open=True)
    push(pump, voice(0.4))
    push(pump, voice(0.4, seed=2))
    pump.run(60)
    second = [job for job in jobs_of(pump) if job.known is not None][1]
    assert second.known is not None
    assert second.known[:, 0, 0] == pytest.approx(closing_weights(4))


def test_speech_right_after_an_interrupt_continues_from_the_closing_mouth() -> None:
    pump = recording_pump(SessionConfig(pushed_start_s=0.0), stuck_open=True)
    push(pump, voice(2.0))
    pump.run(20)
    pump.session.interrupt(pump.clock.now)
    push(pump, voice(0.4))
    pump.run(20)
    second = [job for job in jobs_of(pump) if job.known is not None][1]
    assert second.generation == 1
    assert second.known is not None
    assert second.known[:, 0, 0] == pytest.approx(closing_weights(4))


def test_after_a_failed_hop_motion_starts_again_from_what_was_shown() -> None:
    pump = recording_pump(stuck_open=True)
    push(pump, voice(1.0))
    pump.run(8)
    while not isinstance(job := pump.session.next_job(), MotionJob):
        pump.step() if job is None else pump.session.complete(job, run_job(pump.engine, job), pump.clock.now)
    pump.session.fail(job, EngineFailed("boom"), pump.clock.now)
    count = len(jobs_of(pump))
    pump.run(10)
    again = jobs_of(pump)[count]
    assert again.known is not None
    assert (again.known == 1.0).all()
    assert (again.position, again.state.known) == (4, 0)


def test_without_known_frames_the_first_job_has_none() -> None:
    pump = recording_pump(SessionConfig(known_frames=0))
    push(pump, voice(0.4))
    pump.run(40)
    assert all(job.known is None for job in jobs_of(pump))
    assert jobs_of(pump)[0].position == 0


def test_pictures_tell_the_peak_of_their_sound() -> None:
    pump = make_pump()
    samples = np.zeros(48_000, np.int16)
    samples[1920 * 5 + 100] = -16_384
    push(pump, samples)
    pump.run(50)
    # the face rests until the hop that hears the click
    assert [round(f.audio_peak, 6) for f in pump.frames[:6]] == [0, 0, 0, 0.5, 0, 0]


def test_a_picture_track_forgets_what_was_passed() -> None:
    track = PictureTrack()
    for frame in range(4):
        track.want(frame, FrameSpec(frame, None))
    assert track.next_wanted(2) == (0, 1)
    picture = np.zeros((1, 1, 3), np.uint8)
    track.done((0, 1), track.shows((0, 1)), (picture, picture), 5.0)
    track.broke((2,))
    assert [track.settled(frame) for frame in range(4)] == [True, True, True, False]
    taken = track.take(1)
    assert taken is not None
    assert (taken.shows.clip_index, taken.ready_at) == (1, 5.0)
    assert track.take(3) is None
    track.done((3,), (FrameSpec(3, None),), (picture,), 6.0)
    assert track.held == 0, "too late for its slot"
    overdue = track.take_overdue()
    assert overdue is not None
    assert overdue.shows.clip_index == 3, "but newer than what is on show"
    assert track.take_overdue() is None


def test_a_session_runs_dry_when_its_finished_pictures_end() -> None:
    pump = make_pump()
    session = pump.session
    assert session.runs_dry() == session.next_due()
    push(pump, voice(1.0))
    pump.step()
    dry = [session.runs_dry()]
    for _ in range(3):
        pump.work(pump.clock.now)  # everything that can be computed now
        dry.append(session.runs_dry())
        pump.step()
    ahead_s = SessionConfig().ahead_frames * 0.04
    assert dry[1] - session.next_due() >= ahead_s - 5 * 0.04
    assert dry == sorted(dry)


def test_a_session_whose_pictures_were_late_is_the_more_urgent_the_longer() -> None:
    pump = make_pump(SessionConfig(start_wait_s=0.0, max_late_frames=1000), job_s=30.0)
    push(pump, voice(2.0))
    urgency = []
    for _ in range(20):
        pump.step()
        urgency.append(pump.session.runs_dry() - pump.session.next_due())
    assert urgency[-1] <= -0.3
    assert urgency[5:] == sorted(urgency[5:], reverse=True)


def test_a_closing_mouth_runs_dry_at_its_first_missing_picture() -> None:
    pump = make_pump()
    push(pump, voice(1.0))
    pump.run(12)
    pump.session.interrupt(pump.clock.now)
    assert pump.session.runs_dry() == pytest.approx(pump.session.next_due())
    pump.work(pump.clock.now)
    assert pump.session.runs_dry() == pytest.approx(pump.session.next_due() + 4 * 0.04)


def test_every_second_picture_is_repeated_on_demand_and_not_late() -> None:
    pump = make_pump()
    with pytest.raises(BadInput, match="at least 1"):
        pump.session.economise(hop_factor=1, picture_every=0)
    push(pump, voice(4.0))
    whole = [piece for piece in pump.run(30) if piece.speech_sample is not None]
    pump.session.economise(hop_factor=1, picture_every=2)
    pump.run(12)  # what is planned already comes as it was planned
    made = len(pump.frames)
    half = [piece for piece in pump.run(10) if piece.speech_sample is not None]
    assert len(whole) > 20
    assert len(half) == 10
    assert len(pump.frames) - made == 5
    assert not any(piece.late for piece in whole + half)
    shown = [id(piece.picture) for piece in half]
    assert len(set(shown)) in (5, 6)
    assert pump.session.stats().repeated >= 5
    assert [piece.slack_s is None for piece in half].count(True) == 5
    pump.session.economise(hop_factor=1, picture_every=1)
    pump.run(12)
    assert pump.session.stats().late == 0


def test_speech_that_begins_later_gets_the_larger_hop() -> None:
    def hops(live: bool, factor: int) -> set[int]:
        pump = recording_pump()
        pump.session.economise(hop_factor=factor, picture_every=1)
        pump.session.receive_speech(voice(1.0), 48_000, now=pump.clock.now, live=live)
        pump.session.end_of_speech(pump.clock.now)
        pieces = pump.seconds(2.0)
        assert sum(piece.speech_sample is not None for piece in pieces) >= 25
        assert not any(piece.late for piece in pieces)
        return {job.hop for job in jobs_of(pump)}

    assert hops(live=False, factor=1) == {2}
    assert hops(live=False, factor=2) == {4}
    assert hops(live=False, factor=4) == {2}, "eight frames and one more are too many for the engine"
    assert hops(live=True, factor=1) == {1}
    assert hops(live=True, factor=2) == {2}


def test_an_utterance_keeps_the_hop_that_it_began_with() -> None:
    pump = recording_pump()
    push(pump, voice(2.0))
    pump.run(10)
    pump.session.economise(hop_factor=2, picture_every=1)
    push(pump, voice(1.0))
    pump.seconds(5.0)
    found = [job.hop for job in jobs_of(pump)]
    assert found == sorted(found)
    assert set(found) == {2, 4}
