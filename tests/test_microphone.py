"""Microphone frames of any format become gapless 48 kHz mono."""

from __future__ import annotations

import fractions

import av
import numpy as np
import pytest

from server.microphone import MAX_GAP_S, Microphone


def frame(
    samples: np.ndarray, pts: int | None, rate: int = 48_000, layout: str = "mono", fmt: str = "s16"
) -> av.AudioFrame:
    made = av.AudioFrame.from_ndarray(samples, format=fmt, layout=layout)
    made.sample_rate = rate
    made.pts = pts
    made.time_base = fractions.Fraction(1, rate)
    return made


def test_mono_48_khz_passes_bit_for_bit() -> None:
    microphone = Microphone()
    samples = np.arange(1920, dtype=np.int16)
    got = [microphone.convert(frame(part[None], 960 * i)) for i, part in enumerate(np.split(samples, 2))]
    np.testing.assert_array_equal(np.concatenate(got), samples)


def test_a_gap_in_the_time_stamps_becomes_silence() -> None:
    microphone = Microphone()
    loud = np.full((1, 960), 1000, np.int16)
    microphone.convert(frame(loud, 0))
    got = microphone.convert(frame(loud, 960 * 4))  # three packets were lost
    assert len(got) == 960 * 4
    assert not got[: 960 * 3].any()
    assert (got[960 * 3 :] == 1000).all()
    assert microphone.filled_samples == 960 * 3
    assert len(microphone.convert(frame(loud, 960 * 5))) == 960


def test_a_long_pause_is_filled_no_further_than_the_bound() -> None:
    microphone = Microphone()
    quiet = np.zeros((1, 960), np.int16)
    microphone.convert(frame(quiet, 0))
    assert len(microphone.convert(frame(quiet, 48_000 * 3600))) == MAX_GAP_S * 48_000 + 960


def test_a_clock_that_jumps_back_is_followed_without_a_gap() -> None:
    microphone = Microphone()
    quiet = np.zeros((1, 960), np.int16)
    microphone.convert(frame(quiet, 48_000))
    assert len(microphone.convert(frame(quiet, 0))) == 960
    assert len(microphone.convert(frame(quiet, 960))) == 960


def test_frames_without_time_stamps_are_taken_one_after_the_other() -> None:
    microphone = Microphone()
    for _ in range(3):
        assert len(microphone.convert(frame(np.zeros((1, 480), np.int16), None))) == 480


@pytest.mark.parametrize(
    ("rate", "layout", "fmt", "shape"),
    [
        (48_000, "stereo", "s16", (1, 1920)),
        (48_000, "stereo", "fltp", (2, 960)),
        (16_000, "mono", "s16", (1, 320)),
        (8_000, "mono", "s16", (1, 160)),
        (44_100, "5.1", "fltp", (6, 882)),
    ],
)
def test_any_format_gives_as_much_sound(rate: int, layout: str, fmt: str, shape: tuple[int, int]) -> None:
    microphone = Microphone()
    data = np.full(shape, 0.1 if fmt == "fltp" else 3000, np.float32 if fmt == "fltp" else np.int16)
    step = shape[1] // (2 if fmt == "s16" and layout == "stereo" else 1)
    got = [microphone.convert(frame(data, i * step, rate, layout, fmt)) for i in range(50)]
    assert all(part.dtype == np.int16 for part in got)
    assert abs(sum(map(len, got)) - 48_000) < 200  # the resampler keeps about a millisecond
    assert np.abs(np.concatenate(got)[1000:-200]).min() > 1000
    assert microphone.filled_samples == 0


def test_a_change_of_format_in_the_middle_is_followed() -> None:
    microphone = Microphone()
    microphone.convert(frame(np.zeros((1, 960), np.int16), 0))
    assert len(microphone.convert(frame(np.zeros((1, 1920), np.int16), 960, layout="stereo"))) == 960
