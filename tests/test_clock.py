from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk import clock


def test_a_frame_is_a_whole_number_of_samples() -> None:
    assert clock.ANALYSIS_SAMPLES_PER_FRAME == 640
    assert clock.PLAYOUT_SAMPLES_PER_FRAME == 1920
    assert clock.FRAME_S == 0.04


def test_exact_div_refuses_a_remainder() -> None:
    assert clock.exact_div(48_000, 25) == 1920
    with pytest.raises(ValueError, match="44100 is not a multiple of 16000"):
        clock.exact_div(44_100, 16_000)


@given(st.integers(0, 10_000_000))
def test_all_timelines_agree_on_a_frame(frame: int) -> None:
    seconds = clock.frame_to_seconds(frame)
    assert clock.frame_to_analysis_sample(frame) / clock.ANALYSIS_RATE == pytest.approx(seconds)
    assert clock.frame_to_playout_sample(frame) == 3 * clock.frame_to_analysis_sample(frame)
