from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mytalk.dubbing.timeline import Timeline, pictures_back_and_forth, source_frame, timeline
from mytalk.video.media import probe_video
from tests.small_actor import RATE, frame_number, small_pictures, write_video


def test_going_back_and_forth() -> None:
    assert [source_frame(p, 4) for p in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [source_frame(p, 2) for p in range(4)] == [0, 1, 0, 1]
    assert [source_frame(p, 1) for p in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "50", "60", "15"])
def test_a_fixed_rate_is_recognised_and_kept_exactly(rate: str) -> None:
    fps = Fraction(rate)
    stamps = np.round(np.arange(500) / float(fps), 3)  # as Matroska rounds them
    line = timeline(stamps, fps)
    assert (line.fps, line.regular) == (fps, True)
    times, shown = line.play(20.0)
    assert len(times) == int(np.ceil(20 * fps))
    np.testing.assert_allclose(times, np.arange(len(times)) / float(fps), atol=1e-9)
    assert shown.tolist() == [source_frame(p, 500) for p in range(len(times))]


def test_a_mean_rate_gives_way_to_the_usual_one_that_fits() -> None:
    line = timeline(np.arange(900) / 30, Fraction(2999, 100))
    assert (line.fps, line.regular) == (Fraction(30), True)


def test_irregular_time_stamps_are_kept_forwards_and_mirrored_backwards() -> None:
    stamps = np.array([0.5, 0.54, 0.64, 0.66])  # a stream need not begin at 0
    line = timeline(stamps, RATE)
    assert not line.regular
    times, shown = line.play(0.4)
    assert shown.tolist() == [0, 1, 2, 3, 2, 1, 0, 1]
    np.testing.assert_allclose(times, [0, 0.04, 0.14, 0.16, 0.18, 0.28, 0.32, 0.36])


def test_one_picture_and_time_stamps_that_stand_still() -> None:
    times, shown = timeline(np.array([0.0]), RATE).play(0.2)
    np.testing.assert_allclose(times, np.arange(5) / 25)
    assert set(shown.tolist()) == {0}
    times, _ = Timeline(np.array([0.0, 0.0, 0.1]), RATE, False).play(1.0)
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("frames", [1, 2, 7, 40])
def test_pictures_back_and_forth_come_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    monkeypatch.setattr("mytalk.dubbing.timeline.BACKWARD_BYTES", 5 * 64 * 48 * 3 // 2)  # five pictures
    video = write_video(tmp_path / "a.mp4", small_pictures(40, 64, 48))
    count = 2 * frames + 13
    stamps = np.arange(frames) / 25
    got = [frame_number(p.rgb()) for p in pictures_back_and_forth(video, probe_video(video), stamps, count)]
    assert got == [source_frame(p, frames) for p in range(count)]
