"""What keeps live speech at its delay: when it is left alone, resampled, shortened, dropped."""

from __future__ import annotations

import numpy as np
import pytest

from mytalk.audio.live import MAX_SPEED, LivePace
from mytalk.config import SessionConfig
from mytalk.types import I16
from tests.fakes import voice

RATE, SIZE = 48_000, 960
CONFIG = SessionConfig(live_delay_s=0.25, live_drift_s=0.025)
LOUD = np.tile(voice(1.0)[6_000:7_000], 100)  # a vowel that never ends


class Feed:
    """20 ms pieces in even time, played out as they were taken; ``delay_s`` follows from what was kept."""

    def __init__(self, delay_s: float, sound: I16 = LOUD) -> None:
        self.pace = LivePace(CONFIG, 0.14)
        self.delay_s, self.sound = delay_s, sound
        self.now, self.sent, self.kept = 100.0, 0, [np.zeros(0, np.int16)]
        self.speeds: list[float] = []

    def run(self, seconds: float, ppm: float = 0.0) -> float:
        for _ in range(round(seconds * 50)):
            first = self.sent * SIZE % (len(self.sound) - SIZE)
            kept, after_s = self.pace.fit(self.sound[first : first + SIZE], RATE, self.delay_s, self.now)
            assert after_s == pytest.approx(self.delay_s + len(kept) / RATE)
            self.kept.append(kept)
            self.speeds.append(self.pace.speed)
            step_s = 0.02 / (1 + ppm * 1e-6)
            self.delay_s = after_s - step_s
            self.now += step_s
            self.sent += 1
        return self.delay_s - self.pace.target_s


def test_within_the_bounds_sound_passes_bit_for_bit() -> None:
    for start in (-0.009, 0.0, 0.024):
        feed = Feed(CONFIG.live_delay_s + start)
        feed.run(3.0)
        kept = np.concatenate(feed.kept)
        np.testing.assert_array_equal(kept[:9_000], LOUD[:9_000])
        assert len(kept) == 3 * RATE


@pytest.mark.parametrize("start", [-0.06, -0.015, 0.03, 0.055])
def test_a_deviation_is_taken_up_by_resampling_alone(start: float) -> None:
    feed = Feed(CONFIG.live_delay_s + start)
    assert abs(feed.run(25.0)) < 0.006
    assert feed.pace.dropped_s == 0
    assert 1 - MAX_SPEED <= min(feed.speeds) <= max(feed.speeds) <= 1 + MAX_SPEED
    assert feed.speeds[-1] == 1.0


@pytest.mark.parametrize("ppm", [-500, 500])
def test_a_wrong_clock_adds_no_delay_and_takes_none(ppm: float) -> None:
    feed = Feed(CONFIG.live_delay_s)
    worst = [abs(feed.run(1.0, ppm)) for _ in range(300)]
    assert max(worst) < 0.03
    assert feed.pace.dropped_s == 0


def test_sound_that_is_much_too_late_is_shortened_within_seconds_even_without_a_pause() -> None:
    feed = Feed(CONFIG.live_delay_s + 0.4)
    feed.run(1.0)
    assert feed.pace.dropped_s < 0.02, "a quiet moment may come yet"
    assert abs(feed.run(3.0)) < 0.03
    assert feed.pace.dropped_s == pytest.approx(0.4, abs=0.05)
    kept = np.concatenate(feed.kept).astype(int)
    assert np.abs(np.diff(kept)).max() <= 1.3 * np.abs(np.diff(LOUD.astype(int))).max(), "no clicks"


def test_quiet_pieces_go_first() -> None:
    sound = np.concatenate([LOUD[: RATE // 2], np.zeros(RATE // 2, np.int16)])
    feed = Feed(CONFIG.live_delay_s + 0.2, sound)
    assert abs(feed.run(1.0)) < 0.02
    kept = np.concatenate(feed.kept)
    np.testing.assert_array_equal(kept[: RATE // 2], LOUD[: RATE // 2])


def test_beyond_the_bound_everything_is_dropped() -> None:
    feed = Feed(CONFIG.live_backlog_s + 0.5)
    feed.run(0.4)
    assert sum(map(len, feed.kept)) == 0
    assert feed.pace.dropped_s == pytest.approx(0.4)


def test_an_uneven_network_raises_the_target_and_it_comes_down_again() -> None:
    pace, rng, now = LivePace(CONFIG, 0.14), np.random.default_rng(1), 50.0
    targets = []
    for i in range(3_000):
        now = 50.0 + i * 0.02 + (rng.uniform(0, 0.3) if 500 <= i < 1_000 else 0.0)
        pace.fit(LOUD[:SIZE], RATE, pace.target_s, now)
        targets.append(pace.target_s)
    assert targets[400] == CONFIG.live_delay_s
    assert targets[999] == pytest.approx(0.14 + 0.04 + 0.2), "bounded"
    assert targets[-1] == CONFIG.live_delay_s


def test_other_rates_and_pieces_of_any_size() -> None:
    pace = LivePace(CONFIG, 0.14)
    for size in (1, 0, 7, 160, 5_000):
        kept, _ = pace.fit(np.full(size, 9_000, np.int16), 16_000, 0.25, 10.0)
        assert len(kept) == size
    pace.fit(np.zeros(0, np.int16), 16_000, 0.5, 10.0)
    assert len(pace.end()) == 0
