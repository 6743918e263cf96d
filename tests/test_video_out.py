from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mytalk.errors import BadInput
from mytalk.video.media import VideoInfo, probe_video, read_frames
from mytalk.video.out import VideoWriter
from mytalk.video.picture import Picture, planes
from tests.small_actor import small_pictures


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_behind_when_writing_is_broken_off(
    tmp_path: Path, error: type[BaseException]
) -> None:
    out = tmp_path / "a.mp4"
    out.write_bytes(b"what was there before")

    def break_off() -> None:
        with VideoWriter(out, width=64, height=48, fps=Fraction(25), crf=20) as writer:
            writer.add_picture(small_pictures(1, 64, 48)[0])
            raise error

    with pytest.raises(error):
        break_off()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert out.read_bytes() == b"what was there before"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        VideoWriter(tmp_path / "none" / "a.mp4", width=64, height=48, fps=Fraction(25), crf=20)
    with pytest.raises(BadInput, match="is a folder"):
        VideoWriter(tmp_path, width=64, height=48, fps=Fraction(25), crf=20)


def source(form: str, colour: tuple[int, int, int, int], aspect: Fraction = Fraction(1)) -> VideoInfo:
    return VideoInfo(64, 48, Fraction(25), None, False, (64, 48), aspect, 0, False, form, colour)


@pytest.mark.parametrize(
    ("form", "colour"),
    [
        ("yuv420p", (5, 5, 6, 1)),
        ("yuvj420p", (1, 1, 1, 2)),
        ("yuv444p", (2, 2, 2, 0)),
        ("yuv420p10le", (9, 9, 18, 1)),
    ],
)
def test_a_video_like_its_source(tmp_path: Path, form: str, colour: tuple[int, int, int, int]) -> None:
    like = source(form, colour, Fraction(4, 3))
    out = tmp_path / "a.mp4"
    frames = [Picture.from_rgb(p).frame.reformat(format=form) for p in small_pictures(6, 64, 48)]
    with VideoWriter(out, width=64, height=48, fps=Fraction(25), crf=4, like=like) as writer:
        for frame in frames:
            writer.add_frame(Picture(0.0, frame))
    info = probe_video(out)
    assert (info.format, info.aspect, info.coded) == (form, Fraction(4, 3), (64, 48))
    assert info.colour[:3] == colour[:3]
    for sent, got in zip(frames, read_frames(out), strict=True):
        for a, b in zip(planes(Picture(0, sent)), planes(got), strict=True):
            assert np.abs(a.astype(int) - b).mean() < (8 if form.endswith("10le") else 2)


def test_pictures_at_their_own_times(tmp_path: Path) -> None:
    out, times = tmp_path / "a.mp4", [0.0, 0.04, 0.14, 0.1567, 0.5]
    like = source("yuv420p", (1, 1, 1, 1))
    with VideoWriter(out, width=64, height=48, fps=Fraction(25), crf=16, like=like, regular=False) as writer:
        for time_s, rgb in zip(times, small_pictures(5, 64, 48), strict=True):
            frame = Picture.from_rgb(rgb).frame.reformat(format="yuv420p")
            writer.add_frame(Picture(0.0, frame), time_s)
    assert [p.time_s for p in read_frames(out)] == pytest.approx(times, abs=1e-4)
