from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk.audio.speech import HOP, MELS, SILENCE, WINDOW, LogMelState, log_mel
from mytalk.types import F32


def offline(samples: F32) -> F32:
    return log_mel(LogMelState.initial(), samples)[1]


def noise(count: int) -> F32:
    return (np.random.default_rng(1).standard_normal(count) * 0.1).astype(np.float32)


@given(count=st.integers(0, 4000), data=st.data())
def test_any_split_gives_the_same_bits(count: int, data: st.DataObject) -> None:
    samples = noise(count)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=12)))
    state, frames = LogMelState.initial(), []
    for piece in np.split(samples, cuts):
        state, fresh = log_mel(state, piece)
        frames.append(fresh)
        assert WINDOW - HOP <= len(state.tail) < WINDOW
    assert np.array_equal(np.concatenate(frames), offline(samples))


def test_one_frame_per_ten_milliseconds_and_no_look_ahead() -> None:
    samples = noise(16_000)
    frames = offline(samples)
    assert frames.shape == (100, MELS)
    assert frames.dtype == np.float32
    changed = samples.copy()
    changed[50 * HOP :] = 0
    assert np.array_equal(offline(changed)[:50], frames[:50])
    assert not np.array_equal(offline(changed)[50], frames[50])


def test_silence_is_the_floor() -> None:
    assert offline(np.zeros(1600, np.float32)) == pytest.approx(SILENCE)


def test_a_tone_shows_in_its_band_and_louder_is_larger() -> None:
    t = np.arange(8000, dtype=np.float32) / 16_000

    def band(hz: float, level: float = 0.1) -> F32:
        return offline((level * np.sin(2 * np.pi * hz * t)).astype(np.float32))[20]

    peaks = [int(band(hz).argmax()) for hz in (200, 1000, 4000)]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[1] < peaks[2]
    assert band(1000, 0.2).max() - band(1000, 0.1).max() == pytest.approx(np.log(2), abs=1e-3)


def test_the_state_is_not_changed_in_place() -> None:
    state = LogMelState.initial()
    before = state.tail.copy()
    log_mel(state, noise(1000))
    assert np.array_equal(state.tail, before)
