from __future__ import annotations

import os
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from mytalk.errors import BadInput
from mytalk.video.media import (
    RgbPicture,
    at_rate,
    probe_video,
    read_at_rate,
    read_frames,
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


@pytest.mark.parametrize(
    ("codec", "rate", "layout"),
    [
        ("pcm_s16le", 48_000, "stereo"),
        ("pcm_s16le", 8_000, "mono"),
        ("pcm_f32le", 44_100, "mono"),
        ("pcm_s24le", 96_000, "stereo"),
        ("pcm_u8", 11_025, "mono"),
        ("pcm_mulaw", 8_000, "mono"),
    ],
)
def test_any_wav_will_do(tmp_path: Path, codec: str, rate: int, layout: str) -> None:
    """Stereo, telephone rates, float, 24 bits: a tone of 220 Hz comes out of all of them."""
    path = tmp_path / "a.wav"
    tone = (0.5 * np.sin(2 * np.pi * 220 * np.arange(rate) / rate)).astype(np.float32)
    channels = 2 if layout == "stereo" else 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        converter = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
        frame = av.AudioFrame.from_ndarray(np.tile(tone, (channels, 1)), format="fltp", layout=layout)
        frame.sample_rate = rate
        for converted in converter.resample(frame):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    got = np.concatenate(list(read_speech(path, 48_000))).astype(float) / 32768
    assert len(got) == pytest.approx(48_000, abs=100)
    spectrum = np.abs(np.fft.rfft(got[:48_000]))
    assert int(np.argmax(spectrum)) == 220
    assert np.abs(got).max() == pytest.approx(0.5, abs=0.05)


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
    heic, other = tmp_path / "phone.heic", tmp_path / "phone.heif"
    heic.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000))
    other.write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(2000))
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
        (heic, "HEIC pictures cannot be read"),
        (other, "HEIC pictures cannot be read"),
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


def encoded(path: Path, frames: list[av.VideoFrame], codec: str = "libx264", **settings: str) -> Path:
    """A video of frames as they are; settings: encoder options, and pix_fmt and aspect of the stream."""
    aspect, form = settings.pop("aspect", "1"), settings.pop("pix_fmt", frames[0].format.name)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "8", **settings})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, form
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def coded(
    pictures: list[np.ndarray], form: str = "yuv420p", space: int = 5, full: bool = False
) -> list[av.VideoFrame]:
    frames = []
    for picture in pictures:
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frames.append(frame.reformat(format=form, dst_colorspace=space, dst_color_range=2 if full else 1))
    return frames


def test_pixels_that_are_not_square_keep_their_shape_and_are_told(tmp_path: Path) -> None:
    video = encoded(tmp_path / "a.mp4", coded(small_pictures(3, 64, 96)), aspect="2")
    info = probe_video(video)
    assert (info.coded, info.aspect, info.width, info.height) == ((64, 96), 2, 128, 96)
    picture = next(read_frames(video))
    assert (picture.width, picture.height, picture.aspect) == (64, 96, 2.0)
    assert next(read_pictures(video)).rgb.shape == (96, 128, 3)


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_pixel_formats_are_kept(tmp_path: Path, form: str) -> None:
    pictures = small_pictures(3, 64, 48)
    frames = coded(pictures, form, full=form.startswith("yuvj"))
    video = encoded(tmp_path / "a.mkv", frames)
    assert probe_video(video).format == form
    for sent, got in zip(pictures, read_frames(video), strict=True):
        assert got.frame.format.name == form
        assert np.abs(sent.astype(int) - got.rgb()).mean() < 2.0


def test_hdr_is_recognised(tmp_path: Path) -> None:
    frames = coded(small_pictures(3, 64, 48), "yuv420p10le")
    colours = "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"
    params = {"x265-params": f"log-level=error:{colours}"}
    video = tmp_path / "a.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx265", rate=25, options=params)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 18, 9
        stream.codec_context.colorspace = 9
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe_video(video).hdr == "HDR (HLG)"
    assert probe_video(video).colour[:3] == (9, 9, 18)
    assert probe_video(write_video(tmp_path / "b.mp4", small_pictures(2))).hdr == ""


def test_interlaced_pictures_become_whole(tmp_path: Path) -> None:
    """A bar that moves between two fields leaves no comb behind."""
    fields = []
    for step in range(24):
        picture = np.full((96, 128, 3), 30, np.uint8)
        picture[:, 10 + 4 * step : 26 + 4 * step] = 220
        fields.append(picture)
    woven = []
    for top, bottom in zip(fields[::2], fields[1::2], strict=True):
        picture = top.copy()
        picture[1::2] = bottom[1::2]
        woven.append(picture)
    frames = coded(woven)
    video = tmp_path / "a.mkv"
    with av.open(str(video), "w") as container:
        options = {"crf": "8", "x264-params": "tff=1", "flags": "+ildct+ilme"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe_video(video).interlaced
    assert not probe_video(write_video(tmp_path / "b.mp4", small_pictures(2))).interlaced
    got = list(read_frames(video))
    assert [round(p.time_s * 25) for p in got] == list(range(12))

    def comb(picture: np.ndarray) -> float:
        grey = picture[:, :, 1].astype(float)
        return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())

    assert comb(got[6].rgb()) < 0.3 * comb(woven[6])


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    video = encoded(tmp_path / "a.mkv", coded(small_pictures(3, 65, 47), "bgr0"), codec="ffv1")
    info = probe_video(video)
    assert (info.format, info.coded) == ("yuv444p", (65, 47))
    video = encoded(tmp_path / "b.mkv", coded(small_pictures(3, 65, 47), "yuv420p"), codec="ffv1")
    assert probe_video(video).coded == (66, 48)
    assert (
        np.abs(next(read_frames(video)).rgb()[:47, :65].astype(int) - small_pictures(1, 65, 47)[0]).mean() < 3
    )


def test_a_cut_off_file_is_told(tmp_path: Path) -> None:
    pictures = small_pictures(40) * 3
    path = encoded(tmp_path / "a.mkv", coded(pictures), g="10")
    assert len(list(read_frames(path))) == 120
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="cut off or damaged: it ends after"):
        list(read_frames(path))
