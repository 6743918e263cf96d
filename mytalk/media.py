"""Video and audio files in and out, by PyAV: pictures as RGB arrays, speech as mono int16, MP4 as output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from mytalk.errors import BadInput
from mytalk.types import I16, U8

BT709, BT601 = 1, 5  # swscale colour spaces
HD_LINES = 720  # an untagged video of at least so many lines is BT.709, as players guess
DEFAULT_FPS = Fraction(25)
SEEK_MARGIN_S = 1.0  # reading starts so much earlier, to have the picture that is shown at the start


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video holds: width and height are of the upright picture; duration_s: None when unknown."""

    width: int
    height: int
    fps: Fraction
    duration_s: float | None
    has_sound: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: seconds since its stream began, and uint8 RGB [H, W, 3], upright, square pixels."""

    time_s: float
    rgb: U8


def check_file(path: Path, what: str) -> None:
    """Raise ``BadInput`` with one clear line unless ``path`` is a file with something in it."""
    if not path.exists():
        raise BadInput(f"{path}: no such {what} file")
    if not path.is_file():
        raise BadInput(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty")


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Any]:
    check_file(path, what)
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, PermissionError) as error:
        reason = error.strerror or type(error).__name__
        raise BadInput(f"{path}: not a readable {what} file ({reason})") from error


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise BadInput(f"{path}: there is no picture in this file")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _square_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height in square pixels for a sample aspect ratio (None or 0: square already)."""
    if not aspect or aspect == 1:
        return width, height
    return max(1, round(width * float(aspect))), height


def scaled_size(width: int, height: int, short_side_px: int | None) -> tuple[int, int]:
    """Even width and height whose shorter side is at most ``short_side_px``; never enlarged."""
    factor = min(1.0, short_side_px / min(width, height)) if short_side_px else 1.0
    if factor == 1.0:
        return width, height
    return max(2, 2 * round(width * factor / 2)), max(2, 2 * round(height * factor / 2))


def _to_picture(frame: Any, aspect: Fraction | None, short_side_px: int | None) -> U8:
    space = frame.colorspace
    if space not in (BT709, 4, BT601, 6, 7, 9, 10):  # untagged
        space = BT709 if frame.height >= HD_LINES else BT601
    width, height = scaled_size(*_square_size(frame.width, frame.height, aspect), short_side_px)
    source = {6: BT601, 10: 9}.get(space, space)  # frame tags → swscale's numbers, where they differ
    area = width < frame.width
    rgb = frame.reformat(
        width, height, "rgb24", src_colorspace=source, interpolation="AREA" if area else "BICUBIC"
    ).to_ndarray()
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy counts them
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else np.asarray(rgb, np.uint8)


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames of a stream; a damaged packet is skipped."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue
        yield from frames


def probe_video(path: Path) -> VideoInfo:
    """Size, rate and length of a video; raises ``BadInput`` for anything that is not one."""
    with _opened(path, "video") as container:
        stream = _video_stream(container, path)
        first = next(_decoded(container, stream), None)
        if first is None:
            raise BadInput(f"{path}: there is no picture in this file")
        height, width = _to_picture(first, stream.sample_aspect_ratio, None).shape[:2]
        fps = stream.average_rate or stream.guessed_rate or DEFAULT_FPS
        duration_s: float | None = None
        if stream.duration is not None:
            duration_s = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration_s = container.duration / av.time_base
        return VideoInfo(width, height, Fraction(fps), duration_s, bool(container.streams.audio))


def read_pictures(path: Path, *, start_s: float = 0.0, short_side_px: int | None = None) -> Iterator[Picture]:
    """Pictures of a video from ``start_s`` on, upright, one at a time.

    Raises ``BadInput`` when the file is not a video or has no picture at all; damaged packets are skipped.
    """
    with _opened(path, "video") as container:
        stream = _video_stream(container, path)
        aspect = stream.sample_aspect_ratio
        begin = stream.start_time or 0
        step_s = 1 / float(stream.average_rate or DEFAULT_FPS)
        if start_s > 0:
            container.seek(begin + int(start_s / stream.time_base), stream=stream, backward=True)
        time_s, some = -step_s, False
        for frame in _decoded(container, stream):
            stamped = frame.pts is not None
            time_s = float((frame.pts - begin) * frame.time_base) if stamped else time_s + step_s
            some = True
            if time_s > start_s - step_s / 2:
                yield Picture(time_s, _to_picture(frame, aspect, short_side_px))
        if not some and start_s <= 0:
            raise BadInput(f"{path}: there is no picture in this file")


def at_rate(pictures: Iterable[Picture], fps: Fraction, *, first: int = 0) -> Iterator[U8]:
    """Pictures first, first+1, … of a video at a fixed rate: at k / fps the one with the nearest time stamp.

    Ends with the last picture's own time.
    """
    index, before = first, None
    for picture in pictures:
        if before is not None:
            # A hair earlier, so that rounding cannot decide ties: the later picture has them all.
            middle_s = (before.time_s + picture.time_s) / 2 - 1e-6
            while index / fps < middle_s:
                yield before.rgb
                index += 1
        before = picture
    while before is not None and index / fps <= before.time_s + float(1 / fps) / 2:
        yield before.rgb
        index += 1


def read_at_rate(
    path: Path, fps: Fraction, *, first: int = 0, short_side_px: int | None = None
) -> Iterator[U8]:
    """Pictures first, first+1, … of a video file at a fixed rate; the same wherever reading starts."""
    start_s = max(0.0, float(first / fps) - SEEK_MARGIN_S)
    return at_rate(read_pictures(path, start_s=start_s, short_side_px=short_side_px), fps, first=first)


def read_speech(path: Path, rate_hz: int) -> Iterator[I16]:
    """The sound of an audio or video file: blocks of int16 [S], mono, at ``rate_hz``.

    Raises ``BadInput`` when there is none; damaged packets are skipped.
    """
    with _opened(path, "audio") as container:
        if not container.streams.audio:
            raise BadInput(f"{path}: there is no sound in this file")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
        some = False
        for frame in _decoded(container, stream):
            for out in resampler.resample(frame):
                some = True
                yield out.to_ndarray()[0]
        if not some:
            raise BadInput(f"{path}: there is no sound in this file")
        for out in resampler.resample(None):
            yield out.to_ndarray()[0]


class VideoWriter:
    """Writes an MP4 (H.264, optionally AAC); the file appears under its name only when all of it is written.

    Use as a context manager: leaving it by an exception (Ctrl-C included) leaves nothing behind.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: Fraction,
        crf: int,
        sound_rate_hz: int | None = None,
    ) -> None:
        """width, height: of the pictures, pixels; an odd one is padded by one pixel, as H.264 needs."""
        if path.is_dir():
            raise BadInput(f"{path}: is a folder")
        if not path.parent.is_dir():
            raise BadInput(f"{path.parent}: no such folder")
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            self._container = av.open(str(self._temporary), "w", format="mp4")
        except OSError as error:
            raise BadInput(f"{path}: cannot be written ({error.strerror})") from error
        self._odd = (height % 2, width % 2)
        self._count = 0
        self._samples = 0
        self._rate_hz = sound_rate_hz
        self._video: Any = self._container.add_stream(
            "libx264", rate=fps, options={"crf": str(crf), "preset": "medium"}
        )
        self._video.width, self._video.height = width + width % 2, height + height % 2
        self._video.pix_fmt = "yuv420p"
        context = self._video.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
        context.time_base = 1 / fps
        self._audio: Any = None
        if sound_rate_hz is not None:
            self._audio = self._container.add_stream("aac", rate=sound_rate_hz, layout="mono")
            self._audio.bit_rate = 160_000

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or remove what there is of it."""
        try:
            try:
                if kind is None:
                    self._finish()
            finally:
                self._container.close()
            if kind is None:
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)  # there is one only if something failed, a full disk say

    def _finish(self) -> None:
        for stream in (self._video, self._audio):
            if stream is not None:
                self._container.mux(stream.encode(None))

    def add_picture(self, rgb: U8) -> None:
        """Add the next picture, uint8 RGB [H, W, 3]."""
        if any(self._odd):
            rgb = np.pad(rgb, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, interpolation="BICUBIC")
        frame.pts, frame.time_base = self._count, self._video.codec_context.time_base
        self._count += 1
        self._container.mux(self._video.encode(frame))

    def add_sound(self, samples: I16) -> None:
        """Add the next samples, int16 [S], mono, at the writer's rate."""
        if self._audio is None or self._rate_hz is None:
            raise BadInput("this video is written without sound")
        if len(samples) == 0:
            return
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = self._rate_hz, self._samples
        frame.time_base = Fraction(1, self._rate_hz)
        self._samples += len(samples)
        self._container.mux(self._audio.encode(frame))
