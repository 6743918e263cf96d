"""The level of a noise that goes on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk.audio.steady import PIECE, PIECES, SteadyLevel
from tests.fakes import voice

RATE = 16_000


def level_of(samples: np.ndarray) -> int:
    steady = SteadyLevel()
    steady.hear(samples)
    return steady.peak


def fan(seconds: float, size: float = 1000.0, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    return (size * noise).astype(np.int16)


def test_it_takes_two_seconds() -> None:
    assert level_of(fan(1.99)) == 0
    assert level_of(fan(2.0)) > 0


def test_a_noise_keeps_near_its_level_and_a_voice_over_it_does_not_raise_it() -> None:
    noise = fan(10.0)
    peaks = np.abs(noise.astype(int)).reshape(-1, PIECE).max(axis=1)
    level = level_of(noise)
    assert level == min(peaks[-PIECES:])
    assert max(peaks) < 1.6 * level
    spoken = noise + voice(10.0, RATE)
    assert np.abs(spoken).max() > 4 * level
    assert level_of(spoken) < 1.6 * level


def test_silence_brings_it_down_at_once() -> None:
    steady = SteadyLevel()
    steady.hear(fan(5.0))
    steady.hear(np.zeros(2 * PIECE, np.int16))
    assert steady.peak == 0


def test_the_most_negative_sample_is_a_peak() -> None:
    assert level_of(np.full(PIECE * PIECES, -32768, np.int16)) == 32768


@given(st.lists(st.integers(0, 3 * RATE), max_size=8))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    noise, steady = fan(3.0), SteadyLevel()
    for piece in np.split(noise, sorted(cuts)):
        steady.hear(piece)
    assert steady.peak == level_of(noise) == pytest.approx(3000, rel=0.3)
