"""The face rests while an open microphone is silent: no inference, no jump, awake with the first sound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk.config import SessionConfig
from mytalk.session.rest import Hush, Rest, closing_weights
from mytalk.types import F32, I16
from tests.fakes import SessionPump, make_pump, voice

CONFIG = SessionConfig()
FRAME = 640  # analysis samples


def quiet(frames: float) -> I16:
    return np.full(round(frames * FRAME), 300, np.int16)  # below the 328 of quiet_peak


def loud(frames: float) -> I16:
    return np.full(round(frames * FRAME), -400, np.int16)


def test_closing_weights_fall_smoothly_to_rest() -> None:
    for frames in range(1, 6):
        weights = [1.0, *closing_weights(frames), 0.0]
        assert all(a > b for a, b in itertools.pairwise(weights))
        assert max(-np.diff(weights)) < 0.75


def test_quiet_is_counted_from_the_last_loud_sample() -> None:
    hush = Hush(CONFIG)
    assert hush.frames == CONFIG.rest_after_frames, "before an utterance there is silence"
    hush.hear(quiet(2))
    assert hush.frames == CONFIG.rest_after_frames + 2
    hush.hear(np.concatenate([loud(1), quiet(1.5)]))
    assert hush.frames == 1.5
    hush.hear(quiet(3))
    assert hush.frames == 4.5
    hush.skip_to(100 * FRAME)
    assert hush.frames == 0


def opening(size: float) -> F32:
    return np.full((5, 3), size, np.float32)


def test_a_closed_mouth_rests_after_enough_quiet_and_an_open_one_does_not() -> None:
    assert Rest(CONFIG).hop(CONFIG.rest_after_frames - 0.1, opening(0.01)) is None
    assert Rest(CONFIG).hop(100, opening(CONFIG.rest_opening + 0.001)) is None
    assert Rest(SessionConfig(rest_after_frames=0)).hop(100, None) is None, "0 means never"
    assert Rest(CONFIG).hop(100, None) == [None, None]
    long_hop = Rest(SessionConfig(hop_frames=8, lookahead_frames=8, ahead_frames=16))
    assert long_hop.hop(15.9, None) is None, "the hop itself hears something"


def test_what_is_left_of_an_opening_is_taken_back_smoothly() -> None:
    rest = Rest(CONFIG)
    hops = [rest.hop(20, opening(0.02)) for _ in range(3)]
    assert all(hop is not None for hop in hops)
    shown = [frame for hop in hops if hop is not None for frame in hop]
    sizes = [0.0 if frame is None else float(frame.max()) for frame in shown]
    assert sizes == pytest.approx([*(0.02 * np.array(closing_weights(4))), 0.0, 0.0])
    assert shown[4:] == [None, None]


def test_it_wakes_with_the_first_hop_that_hears_something() -> None:
    rest = Rest(CONFIG)
    assert rest.hop(20, None) is not None
    assert rest.active
    assert rest.hop(3, None) is not None, "three frames: the hop and its lookahead are quiet"
    assert rest.hop(2.9, None) is None
    assert not rest.active
    assert rest.hop(5, None) is None, "then it takes a longer quiet again"


def talk(pump: SessionPump, samples: I16, *, live: bool = True) -> None:
    """Speech that comes in as it is spoken, 40 ms a packet."""
    for packet in np.split(samples, range(1920, len(samples), 1920)):
        pump.session.receive_speech(packet, 48_000, now=pump.clock.now, live=live)
        pump.step()


def test_an_open_silent_microphone_costs_nothing() -> None:
    pump = make_pump()
    talk(pump, np.zeros(48_000 * 4, np.int16))
    assert pump.engine.motion_calls == 0
    assert not pump.frames
    stats = pump.session.stats()
    assert stats.state == "speaking"
    assert stats.talking == stats.resting > 80
    assert stats.late == 0


def test_a_pause_rests_and_speech_goes_on_without_a_cut() -> None:
    pump = make_pump()
    pause = np.zeros(48_000 * 3, np.int16)
    speech = np.concatenate([voice(1.0), pause, voice(1.0, seed=1), pause])
    talk(pump, speech, live=False)  # live speech may be stretched a little
    talking = [s for s in pump.slices if s.speech_sample is not None]
    assert [s.speech_sample for s in talking] == [1920 * i for i in range(len(talking))]
    heard = np.concatenate([s.samples for s in talking])
    assert np.array_equal(heard, speech[: len(heard)])
    resting = [s.picture is None for s in talking]
    # at rest from a second into a pause to its end, and awake while there is a voice
    assert all(resting[50:98])
    assert not any(resting[2:24])
    assert not any(resting[102:124])
    shown = [0.0 if s.picture is None else float(s.picture[0, 0, 1]) / 500.0 for s in pump.slices]
    assert max(np.abs(np.diff(shown))) < 0.12
    computed = pump.engine.motion_calls * CONFIG.hop_frames
    assert computed < 0.6 * len(talking)
    assert pump.session.stats().late == 0


def test_an_interrupt_at_rest_shows_nothing_but_the_idle_face() -> None:
    pump = make_pump()
    talk(pump, np.concatenate([voice(0.5), np.zeros(48_000 * 2, np.int16)]))
    played = pump.session.interrupt(pump.clock.now)
    assert played > 48_000
    pump.run(10)
    assert all(s.picture is None and s.speech_sample is None for s in pump.slices[-10:])
    assert pump.session.stats().state == "idle"


@given(
    gaps=st.lists(st.floats(0.0, 1.5), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 200_000), max_size=6),
)
def test_resting_does_not_depend_on_how_the_speech_was_cut(gaps: list[float], cuts: list[int]) -> None:
    parts = [part for gap in gaps for part in (voice(0.4), np.zeros(round(gap * 48_000), np.int16))]
    samples = np.concatenate(parts)

    def run(at: list[int]) -> SessionPump:
        pump = make_pump()
        for piece in np.split(samples, sorted(min(cut, len(samples)) for cut in at)):
            pump.session.receive_speech(piece, 48_000, now=pump.clock.now, live=False)
        pump.session.end_of_speech(pump.clock.now)
        pump.run(len(samples) // 1920 + 25)
        return pump

    whole, split = run([]), run(cuts)
    assert [s.picture is None for s in whole.slices] == [s.picture is None for s in split.slices]
    pairs = zip(whole.frames, split.frames, strict=True)
    assert all(np.array_equal(a.displacement, b.displacement) for a, b in pairs)


def fan(seconds: float, rate_hz: int, size: float = 1000.0) -> I16:
    """A noise well above what counts as quiet."""
    noise: I16 = (size * np.random.default_rng(5).standard_normal(round(seconds * rate_hz))).astype(np.int16)
    return noise


def test_a_steady_noise_counts_as_quiet_and_a_voice_in_it_does_not() -> None:
    hush = Hush(CONFIG)
    hush.hear(fan(2.0, 16_000))
    assert hush.frames < 0.1, "for two seconds nobody can know"
    hush.hear(fan(1.0, 16_000))
    assert hush.frames >= 25
    hush.hear(fan(0.4, 16_000) + voice(0.4, 16_000))
    assert hush.frames < 5
    for config in (SessionConfig(steady_peak=0.0), SessionConfig(steady_peak=0.05)):
        unsure = Hush(config)
        for _ in range(10):
            unsure.hear(fan(1.0, 16_000))
        assert unsure.frames < 5, "it is louder than that"


def test_a_face_rests_beside_a_fan_and_wakes_with_a_voice() -> None:
    pump = make_pump(SessionConfig(rest_opening=0.5))  # the fake engine's mouth opens to any sound
    noise = fan(8.0, 48_000)
    noise[5 * 48_000 : 6 * 48_000] += voice(1.0)
    talk(pump, noise, live=False)
    resting = [s.picture is None for s in pump.slices if s.speech_sample is not None]
    assert not any(resting[4:50])
    assert all(resting[65:122])
    assert not any(resting[128:148])
    assert all(resting[165:])
