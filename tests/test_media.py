from __future__ import annotations

import os
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from mytalk.errors import BadInput
from mytalk.media import (
    RgbPicture,
    at_rate,
    probe_video,
    read_at_rate,
    read_pictures,
    read_speech,
    scaled_size,
)
from tests.fakes import voice
from tests.small_actor import frame_number, small_pictures, write_video


def test_pictures_survive_writing_and_reading(tmp_path: Path) -> None:
    pictures = small_pictures(12)
    video = write_video(tmp_path / "a.mp4", pictures)
    got = list(read_pictures(video))
    assert [round(p.time_s * 25) for p in got] == list(range(12))
    for sent, received in zip(pictures, got, strict=True):
        assert (
            np.abs(sent.astype(int) - received.rgb).mean() < 2.0
        )  # colours too: matrix and range are tagged


def test_probe(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", small_pictures(30, 64, 48), Fraction(30), voice(1.0))
    info = probe_video(video)
    assert (info.width, info.height, info.fps, info.has_sound) == (64, 48, Fraction(30), True)
    assert info.duration_s == pytest.approx(1.0, abs=0.05)


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    info = probe_video(write_video(tmp_path / "a.mp4", small_pictures(3, 65, 47)))
    assert (info.width, info.height) == (66, 48)


@pytest.mark.parametrize("first", [0, 1, 17, 40, 59])
def test_reading_may_start_anywhere(tmp_path: Path, first: int) -> None:
    video = write_video(tmp_path / "a.mp4", small_pictures(45))
    whole = [frame_number(p) for p in read_at_rate(video, Fraction(25))]
    assert whole == list(range(45))
    assert [frame_number(p) for p in read_at_rate(video, Fraction(25), first=first)] == whole[first:]


def test_other_rates_take_the_nearest_picture(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", small_pictures(30), Fraction(30))
    slower = [frame_number(p) for p in read_at_rate(video, Fraction(25))]
    assert len(slower) == 25
    assert all(abs(n - k * 30 / 25) <= 0.51 for k, n in enumerate(slower))
    faster = [frame_number(p) for p in read_at_rate(video, Fraction(60))]
    assert len(faster) == 59
    assert faster[:6] == [0, 1, 1, 2, 2, 3]


def test_irregular_time_stamps() -> None:
    levels = [(0.0, 0), (0.01, 1), (0.2, 2), (0.24, 3)]
    pictures = [RgbPicture(t, np.full((2, 2, 3), n, np.uint8)) for t, n in levels]
    got = [int(p.rgb[0, 0, 0]) for p in at_rate(pictures, Fraction(25))]
    assert got == [0, 1, 1, 2, 2, 2, 3]


def test_rotation_is_honoured(tmp_path: Path) -> None:
    pictures = small_pictures(2, 64, 48)
    data = bytearray(write_video(tmp_path / "a.mp4", pictures).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # version 0: the 3×3 display matrix
    turn = [
        0,
        1 << 16,
        0,
        -(1 << 16),
        0,
        0,
        48 << 16,
        0,
        1 << 30,
    ]  # a quarter turn clockwise, as phones write
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turn)
    rotated = tmp_path / "b.mp4"
    rotated.write_bytes(data)
    assert (probe_video(rotated).width, probe_video(rotated).height) == (48, 64)
    got = next(read_pictures(rotated)).rgb
    assert np.abs(np.rot90(pictures[0], -1).astype(int) - got).mean() < 2.0


def test_scaled_size() -> None:
    assert scaled_size(1920, 1080, 512) == (910, 512)
    assert scaled_size(300, 200, 512) == (300, 200)
    assert scaled_size(301, 199, None) == (301, 199)


def test_speech_is_read_at_any_rate(tmp_path: Path) -> None:
    sound = voice(1.0)
    video = write_video(tmp_path / "a.mp4", small_pictures(25), sound=sound)
    for rate in (16_000, 48_000):
        got = np.concatenate(list(read_speech(video, rate)))
        assert got.dtype == np.int16
        assert len(got) == pytest.approx(rate, rel=0.06)  # AAC pads
        assert np.abs(got.astype(float)).max() > 2000


def test_stereo_wav_becomes_mono(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44_100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.full((1, 8820), 1000, np.int16), format="s16", layout="stereo")
        frame.sample_rate = 44_100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    got = np.concatenate(list(read_speech(path, 48_000)))
    assert len(got) == pytest.approx(4800, abs=40)
    assert np.median(got) == pytest.approx(1000, abs=30)


def test_bad_files_get_one_clear_line(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.mp4", tmp_path / "empty.mp4"
    text.write_text("this is not a video\n" * 100)
    empty.touch()
    wav = tmp_path / "sound.wav"
    with av.open(str(wav), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
    for path, says in (
        (tmp_path / "none.mp4", "no such"),
        (text, "not a readable video"),
        (empty, "empty"),
        (tmp_path, "not a file"),
        (wav, "no picture"),
    ):
        with pytest.raises(BadInput, match=says) as caught:
            probe_video(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(BadInput, match=says):
            next(read_pictures(path))
    silent = write_video(tmp_path / "silent.mp4", small_pictures(2))
    with pytest.raises(BadInput, match="no sound"):
        next(read_speech(silent, 16_000))


def test_a_cut_off_file_gives_what_is_there(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", small_pictures(40))
    whole = video.read_bytes()
    damaged = bytearray(whole)
    middle = whole.index(b"mdat") + (len(whole) - whole.index(b"mdat")) // 2
    damaged[middle : middle + 60] = os.urandom(60)
    video.write_bytes(damaged)
    assert len(list(islice(read_at_rate(video, Fraction(25)), 40))) > 10
