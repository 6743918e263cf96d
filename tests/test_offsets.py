"""A/V offsets of made-up clips come out as they were put in."""

from __future__ import annotations

import numpy as np
import pytest

from mytalk.audio.speech import SILENCE
from training.offsets import lag_curve, loudness, moved_sound, pooled_offset


def babble(frames: int, seed: int = 0) -> np.ndarray:
    """Syllables: bumps of random height, about four a second, float32 [frames]."""
    random = np.random.default_rng(seed)
    raw = np.convolve(random.standard_normal(frames + 4), np.hanning(7)[1:-1], "valid")
    return np.maximum(raw, 0).astype(np.float32)


@pytest.mark.parametrize("late_frames", [-5, 0, 1, 6])
def test_a_shifted_sound_is_measured_in_milliseconds(late_frames):
    lips = babble(120)
    heard = np.roll(lips, late_frames)  # late: what frame n shows is heard later
    found = pooled_offset([lag_curve(heard, lips)])
    assert found.offset_ms == pytest.approx(40 * late_frames, abs=4)
    assert found.correlation > 0.85


def test_offsets_between_frames_are_found():
    fine = babble(1200)
    smooth = np.convolve(fine, np.hanning(25), "same").astype(np.float32)
    lips, heard = smooth[::10], np.roll(smooth, 5)[::10]  # half a frame late
    assert pooled_offset([lag_curve(heard, lips)]).offset_ms == pytest.approx(20, abs=5)


def test_clips_of_one_person_agree_where_each_alone_is_misled():
    random = np.random.default_rng(3)
    curves = []
    for seed in range(12):
        lips = babble(75, seed)
        heard = np.roll(lips, 3) + 0.9 * random.standard_normal(75).astype(np.float32)
        curves.append(lag_curve(heard, lips))
    assert pooled_offset(curves).offset_ms == pytest.approx(120, abs=10)


def test_a_moved_sound_is_where_the_lips_are():
    lips = babble(100)
    log_mel = np.repeat(np.repeat(lips, 4)[:, None] - 8, 80, axis=1).astype(np.float32)
    late = moved_sound(log_mel, -120)
    assert pooled_offset([lag_curve(loudness(late, 100), lips)]).offset_ms == pytest.approx(120, abs=4)
    assert (late[:12] == SILENCE).all()
    back = moved_sound(late, 120)
    np.testing.assert_array_equal(back[:-12], log_mel[:-12])
    assert (back[-12:] == SILENCE).all()


def test_still_lips_agree_with_nothing():
    assert pooled_offset([lag_curve(babble(50), np.zeros(50, np.float32))]).correlation == 0
