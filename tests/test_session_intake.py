"""A live microphone: delay, jitter, backlog, clock drift, and who wins when speech is pushed as well."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from mytalk.audio.live import COMPUTE_S, MIN_JITTER_S
from mytalk.clock import FRAME_S
from mytalk.config import SessionConfig
from mytalk.errors import Overloaded
from mytalk.types import I16, AvSlice
from tests.fakes import SessionPump, make_pump, voice

CHUNK_S = 0.02
RATE = 48_000


@dataclass
class Microphone:
    """Sends 20 ms pieces in fake time; each arrives when ``arrival`` says (seconds after the first slot)."""

    pump: SessionPump
    samples: I16
    arrivals: list[float] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        start = self.pump.clock.now
        pieces = len(self.samples) // round(CHUNK_S * RATE)
        self.arrivals = [start + (i + 1) * CHUNK_S for i in range(pieces)]
        self.pump.before_slot = self.send

    def delay(self, first: int, last: int, until: int) -> None:
        """The network keeps pieces first..last-1 back and delivers them together with piece ``until``."""
        self.arrivals[first:last] = [self.arrivals[until]] * (last - first)

    def send(self, due: float) -> None:
        size = round(CHUNK_S * RATE)
        while self.sent < len(self.arrivals) and self.arrivals[self.sent] <= due:
            arrival = max(self.pump.clock.now, self.arrivals[self.sent])
            self.pump.work(arrival)
            self.pump.clock.now = arrival
            piece = self.samples[self.sent * size : (self.sent + 1) * size]
            self.pump.session.receive_speech(piece, RATE, now=arrival, live=True)
            self.sent += 1


def talking(slices: list[AvSlice]) -> list[AvSlice]:
    return [s for s in slices if s.speech_sample is not None]


def heard(slices: list[AvSlice]) -> I16:
    return np.concatenate([s.samples for s in talking(slices)])


def speech_with_pauses(seconds: float) -> I16:
    """Half a second of voice, then a quarter of near silence, again and again."""
    samples = voice(seconds)
    period, loud = round(0.75 * RATE), round(0.5 * RATE)
    quiet = np.arange(len(samples)) % period >= loud
    return np.where(quiet, samples // 1000, samples).astype(np.int16)


def test_a_sample_leaves_one_delay_after_it_came_in() -> None:
    pump = make_pump(job_s=0.015)
    pump.run(7)
    started = pump.clock.now
    microphone = Microphone(pump, voice(4.0))
    pump.run(120)
    spoken = talking(pump.slices)
    delay = 1000.0 + spoken[0].slot * FRAME_S - (started + CHUNK_S)
    assert delay == pytest.approx(0.1 + MIN_JITTER_S + COMPUTE_S, abs=FRAME_S / 2 + 1e-6)
    whole = len(microphone.samples) // 1920 * 1920 - 10 * 1920
    assert np.array_equal(heard(pump.slices)[:whole], microphone.samples[:whole])
    before_end = spoken[: whole // 1920]
    assert not any(s.late for s in before_end)
    assert min(s.slack_s for s in before_end if s.slack_s is not None) > 0.02
    assert pump.session.stats().dropped_live_s == 0


def test_jitter_within_the_allowance_is_not_noticed() -> None:
    pump = make_pump(job_s=0.005)
    microphone = Microphone(pump, voice(3.0))
    for first in (20, 50, 90):
        microphone.delay(first, first + 2, first + 3)
    pump.run(70)
    spoken = talking(pump.slices)
    assert [s.slot for s in spoken] == list(range(spoken[0].slot, spoken[0].slot + len(spoken)))
    assert pump.session.stats().late == 0


def test_after_a_network_stall_the_delay_comes_back() -> None:
    pump = make_pump(job_s=0.005)
    microphone = Microphone(pump, speech_with_pauses(12.0))
    microphone.delay(100, 130, 130)
    pump.run(70)
    assert "starved" in [e.kind for e in pump.session.events()]
    worst = 0.0
    for _ in range(200):
        pump.step()
        worst = max(worst, pump.session.stats().live_delay_s or 0.0)
    stats = pump.session.stats()
    slack_s = pump.session.stats().live.target_s + SessionConfig().live_slack_s
    assert worst > slack_s
    assert stats.live_delay_s is not None
    assert stats.live_delay_s <= slack_s + CHUNK_S
    assert 0.1 < stats.dropped_live_s < 0.9
    kept = heard(pump.slices)
    loud = np.abs(microphone.samples.astype(int)) > SessionConfig().quiet_peak * 32768
    assert np.count_nonzero(
        np.abs(kept.astype(int)) > SessionConfig().quiet_peak * 32768
    ) > 0.9 * np.count_nonzero(loud[: len(kept)]), "only quiet pieces were dropped"


def test_beyond_the_bound_even_loud_speech_is_dropped() -> None:
    pump = make_pump()
    tone = np.full(RATE * 5, 9000, np.int16)
    pump.session.receive_speech(tone, RATE, now=pump.clock.now, live=True)
    stats = pump.session.stats()
    assert stats.buffered_s <= SessionConfig().live_backlog_s
    assert stats.buffered_s + stats.dropped_live_s == pytest.approx(5.0)


def test_a_fast_microphone_does_not_pile_up() -> None:
    pump = make_pump(job_s=0.002)
    microphone = Microphone(pump, speech_with_pauses(40.0))
    start = microphone.arrivals[0]
    microphone.arrivals = [start + (a - start) / 1.01 for a in microphone.arrivals]
    delays = []
    for _ in range(900):
        pump.step()
        delays.append(pump.session.stats().live_delay_s or 0.0)
    assert max(delays) < 0.28 + 0.08 + 0.3
    assert pump.session.stats().dropped_live_s > 0.1
    assert pump.session.stats().buffered_s < 0.7


def test_a_slow_microphone_pauses_now_and_then_and_loses_nothing() -> None:
    pump = make_pump(job_s=0.002)
    microphone = Microphone(pump, voice(30.0))
    start = microphone.arrivals[0]
    microphone.arrivals = [start + (a - start) * 1.01 for a in microphone.arrivals]
    pump.run(740)
    assert [e.kind for e in pump.session.events()].count("starved") >= 1
    assert pump.session.stats().dropped_live_s == 0
    sent = microphone.sent * CHUNK_S
    assert sent - 0.5 < len(heard(pump.slices)) / RATE < 1.006 * sent, "resampled at most"


def test_the_microphone_can_go_silent_and_come_back() -> None:
    pump = make_pump()
    Microphone(pump, voice(1.0))
    pump.run(60)
    assert pump.slices[-1].picture is None
    pump.session.end_of_speech(pump.clock.now)
    pump.run(20)
    assert pump.session.stats().state == "idle"
    Microphone(pump, voice(1.0, seed=3))
    pump.run(40)
    assert [e.kind for e in pump.session.events()].count("speech_started") == 2


def test_pushed_speech_wins_over_the_microphone() -> None:
    pump = make_pump()
    Microphone(pump, voice(6.0))
    pump.run(25)
    pushed = voice(1.0, seed=9)
    pump.session.receive_speech(pushed, RATE, now=pump.clock.now, live=False)
    pump.session.end_of_speech(pump.clock.now)
    pump.run(115)
    starts = [i for i, s in enumerate(talking(pump.slices)) if s.speech_sample == 0]
    assert len(starts) == 3, "microphone, pushed speech, microphone"
    assert np.array_equal(heard(talking(pump.slices)[starts[1] :])[: len(pushed)], pushed)
    assert pump.session.stats().dropped_live_s > 0.9


def test_pushed_speech_that_ran_dry_gives_way_to_the_microphone() -> None:
    pump = make_pump()
    pushed = voice(0.5, seed=9)
    pump.session.receive_speech(pushed, RATE, now=pump.clock.now, live=False)
    Microphone(pump, voice(5.0))
    pump.run(100)
    spoken = talking(pump.slices)
    second = [i for i, s in enumerate(spoken) if s.speech_sample == 0][1]
    assert np.array_equal(heard(spoken[:second])[: len(pushed)], pushed), "nothing pushed is lost"


def test_under_load_a_microphone_gets_the_larger_hop_when_its_delay_has_grown_for_it() -> None:
    for early_s in (0.0, 0.01, 0.02, 0.03):  # where in a slot its first sound comes: the start is rounded
        pump = make_pump(SessionConfig(rest_after_frames=0), job_s=0.005)
        microphone = Microphone(pump, voice(30.0))
        microphone.arrivals = [at + early_s for at in microphone.arrivals]
        hops: list[tuple[int, float]] = []
        motion = pump.engine.motion

        def noted(jobs, pump=pump, hops=hops, motion=motion):  # type: ignore[no-untyped-def]
            live = pump.session.stats().live
            hops.extend((job.hop, (live.delay_s or 0.0) - live.target_s) for job in jobs)
            return motion(jobs)

        pump.engine.motion = noted  # type: ignore[method-assign]
        pump.run(50)
        assert {hop for hop, _ in hops} == {1}
        pump.session.economise(hop_factor=2, picture_every=1)
        pump.run(400)
        sizes = [hop for hop, _ in hops]
        assert sizes == sorted(sizes), "from one hop to the other, once"
        assert hops[sizes.index(2)][1] > -0.02, "the delay has room for it"
        pump.session.economise(hop_factor=1, picture_every=1)
        seen = len(hops)
        pump.run(100)
        assert {hop for hop, _ in hops[seen + 2 :]} == {1}
        assert pump.session.stats().late == 0
        assert "starved" not in [e.kind for e in pump.session.events()]
        assert pump.session.stats().dropped_live_s == 0


def test_an_impossible_delay_is_raised_to_what_the_hop_needs() -> None:
    pump = make_pump(SessionConfig(live_delay_s=0.05))
    Microphone(pump, voice(2.0))
    pump.run(45)
    assert pump.session.stats().late == 0
    assert "starved" not in [e.kind for e in pump.session.events()]


def test_speech_beyond_the_buffer_is_refused_with_the_time_after_which_it_fits() -> None:
    pump = make_pump(SessionConfig(push_buffer_s=2.0))
    pump.session.receive_speech(voice(1.8), RATE, now=pump.clock.now, live=False)
    with pytest.raises(Overloaded) as refused:
        pump.session.receive_speech(voice(0.5), RATE, now=pump.clock.now, live=False)
    wait_s = refused.value.retry_after_s
    assert wait_s == pytest.approx(0.3)
    playing = pump.session.playing()
    assert playing is not None
    assert (playing.utterance, playing.played_samples) == (0, 0)
    assert (playing.queued_s, playing.room_s) == pytest.approx((1.8, 0.2))
    while not any(s.speech_sample is not None for s in pump.slices):
        pump.step()
    pump.seconds(wait_s + 2 * FRAME_S)
    played = len(talking(pump.slices)) * 1920
    assert pump.session.playing().played_samples == played  # type: ignore[union-attr]
    pump.session.receive_speech(voice(0.5), RATE, now=pump.clock.now, live=False)
    with pytest.raises(Overloaded) as hopeless:
        pump.session.receive_speech(voice(2.5), RATE, now=pump.clock.now, live=False)
    assert hopeless.value.retry_after_s is None, "it never fits"


def test_without_an_utterance_nothing_plays() -> None:
    assert make_pump().session.playing() is None
