"""Sound made faster, slower and shorter: how much, how cleanly, and that speed 1 changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mytalk.audio.stretch import HALF, Stretcher, shorten
from mytalk.types import I16
from tests.fakes import voice

RATE = 48_000


def tone(seconds: float, hz: float) -> I16:
    at = np.arange(round(seconds * RATE)) / RATE
    return np.rint(12_000 * np.sin(2 * np.pi * hz * at)).astype(np.int16)


def stretched(samples: I16, speed: float, size: int = 960) -> I16:
    stretcher = Stretcher()
    parts = [stretcher.push(samples[i : i + size], speed) for i in range(0, len(samples), size)]
    return np.concatenate([*parts, stretcher.flush()])


def test_speed_one_is_bit_for_bit_and_without_delay() -> None:
    stretcher, samples = Stretcher(), voice(0.1)
    for part in np.split(samples, [1, 1, 100, 2_000]):
        np.testing.assert_array_equal(stretcher.push(part, 1.0), part)


@pytest.mark.parametrize("speed", [0.995, 0.9998, 1.0002, 1.005])
@pytest.mark.parametrize("hz", [200.0, 3_000.0, 12_000.0])
def test_a_tone_stays_a_clean_tone(speed: float, hz: float) -> None:
    out = stretched(tone(1.0, hz), speed).astype(float)
    assert len(out) == pytest.approx(RATE / speed, abs=HALF)
    at = np.arange(len(out)) / RATE * speed
    middle = slice(200, -200)
    waves = np.stack([np.sin(2 * np.pi * hz * at), np.cos(2 * np.pi * hz * at)])[:, middle]
    fit, *_ = np.linalg.lstsq(waves.T, out[middle], rcond=None)
    noise = out[middle] - fit @ waves
    assert np.hypot(*fit) == pytest.approx(12_000, rel=0.001)
    assert 20 * np.log10(np.std(noise) / 12_000) < -70


def test_after_a_stretch_whole_samples_come_back_and_pass_unchanged() -> None:
    stretcher, samples = Stretcher(), voice(2.0)
    parts = []
    for i, part in enumerate(np.split(samples, 100)):
        parts.append(stretcher.push(part, 1.004 if 20 <= i < 60 else 1.0))
    out = np.concatenate(parts)
    assert len(samples) - len(out) == pytest.approx(40 * 960 * 0.004, abs=2)
    np.testing.assert_array_equal(out[-20_000:], samples[-20_000:])
    assert np.abs(np.diff(out.astype(int))).max() <= 1.1 * np.abs(np.diff(samples.astype(int))).max()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1_500), st.sampled_from([1.0, 1.005, 0.995, 1.0001])), max_size=30),
)
def test_any_speeds_and_pieces_keep_count(steps: list[tuple[int, float]]) -> None:
    stretcher, given_, wanted, out = Stretcher(), 0, 0.0, 0
    for size, speed in steps:
        out += len(stretcher.push(np.full(size, 1_000, np.int16), speed))
        given_ += size
        wanted += size / speed
    out += len(stretcher.flush())
    assert abs(out - wanted) <= 2 + HALF * 0.01 * len(steps)
    assert len(stretcher.push(np.zeros(10, np.int16), 1.0)) == 10


def test_a_vowel_loses_whole_periods() -> None:
    at = np.arange(960) / RATE
    vowel = np.rint(8_000 * np.sin(2 * np.pi * 200 * at)).astype(np.int16)
    out = shorten(vowel, anyway=False)
    gone = (len(vowel) - len(out)) * 200 / RATE
    assert gone == pytest.approx(round(gone), abs=0.05)
    assert gone >= 1
    np.testing.assert_array_equal(out[:200], vowel[:200])
    assert np.abs(np.diff(out.astype(int))).max() < 1.2 * np.abs(np.diff(vowel.astype(int))).max()
    assert out[-1] == vowel[-1]


def test_noise_is_left_alone_unless_it_must_go() -> None:
    noise = np.random.default_rng(0).integers(-5_000, 5_000, 960).astype(np.int16)
    assert len(shorten(noise, anyway=False)) == 960
    assert len(shorten(noise, anyway=True)) < 960 - 100


@pytest.mark.parametrize("size", [0, 1, 100, 400])
def test_what_is_too_short_is_left_alone(size: int) -> None:
    assert len(shorten(np.zeros(size, np.int16), anyway=True)) == size


def test_other_rates() -> None:
    at = np.arange(320) / 16_000
    vowel = np.rint(8_000 * np.sin(2 * np.pi * 200 * at)).astype(np.int16)
    assert len(shorten(vowel, anyway=False, rate_hz=16_000)) in (320 - 80, 320 - 160)
