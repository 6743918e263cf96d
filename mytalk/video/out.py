"""Videos out: MP4 that appears under its name when it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from mytalk.errors import BadInput
from mytalk.types import I16, U8
from mytalk.video.media import VideoInfo
from mytalk.video.picture import BT709, Picture

SOUND_BIT_RATE = 160_000
LOOKAHEAD_PIXELS = 40_000_000  # that an encoder may look ahead
CLOCK_HZ = 90_000  # resolution of time stamps where pictures come at no fixed rate
PLAIN = (
    "yuv420p",
    (1, 1, 1, 1),
    Fraction(1),
)  # format, colour tags and pixel aspect of a video made from RGB


class VideoWriter:
    """Writes an MP4: H.264, HEVC for more than 8 bits; optionally AAC sound.

    Use as a context manager: leaving it by an exception (Ctrl-C, a full disk) leaves nothing behind.
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
        like: VideoInfo | None = None,
        regular: bool = True,
    ) -> None:
        """width, height: of the pictures, pixels; an odd one is padded by one pixel, as H.264 needs.

        like: take pixel format, colour tags and pixel aspect from this video; then use ``add_frame``.
        regular: pictures come at ``fps``; otherwise each brings its own time.
        """
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
        self._count = self._samples = 0
        self._rate_hz = sound_rate_hz
        form = PLAIN if like is None else (like.format, like.colour, like.aspect)
        self._video = self._video_stream((width + width % 2, height + height % 2), fps, crf, form)
        self._video.codec_context.time_base = 1 / fps if regular else Fraction(1, CLOCK_HZ)
        self._audio: Any = None
        if sound_rate_hz is not None:
            self._audio = self._container.add_stream("aac", rate=sound_rate_hz, layout="mono")
            self._audio.bit_rate = SOUND_BIT_RATE

    def _video_stream(
        self,
        size: tuple[int, int],
        fps: Fraction,
        crf: int,
        form: tuple[str, tuple[int, int, int, int], Fraction],
    ) -> Any:
        name, colour, aspect = form
        # An encoder that looks 40 pictures ahead holds 1.6 GB of 4K; what it costs is a larger file.
        ahead = max(4, min(40, LOOKAHEAD_PIXELS // (size[0] * size[1])))
        options = {"crf": str(crf), "preset": "medium", "rc-lookahead": str(ahead)}
        deep = name.endswith("10le")
        if deep:  # hardly a player takes H.264 with 10 bits; phones film HDR in HEVC
            parameters = f"log-level=error:rc-lookahead={max(ahead, 5)}:frame-threads=2"
            options = {"crf": str(crf), "preset": "fast", "x265-params": parameters}
        stream: Any = self._container.add_stream("libx265" if deep else "libx264", rate=fps, options=options)
        if deep:
            stream.codec_context.codec_tag = "hvc1"
        stream.width, stream.height = size
        stream.pix_fmt = name
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = colour
        context.sample_aspect_ratio = aspect
        return stream

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or remove what there is of it."""
        try:
            if kind is None:
                with self._writing():
                    for stream in (self._video, self._audio):
                        if stream is not None:
                            self._container.mux(stream.encode(None))
                    self._container.close()
                    os.replace(self._temporary, self._path)
            else:
                with suppress(OSError):  # a second complaint of a full disk would hide the first
                    self._container.close()
        finally:
            self._temporary.unlink(missing_ok=True)  # there is one only if something failed, a full disk say

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            reason = error.strerror or type(error).__name__
            raise BadInput(f"{self._path}: cannot be written ({reason})", "cannot_write") from error

    def add_picture(self, rgb: U8) -> None:
        """Add the next picture, uint8 RGB [H, W, 3]."""
        if any(self._odd):
            rgb = np.pad(rgb, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=BT709, interpolation="BICUBIC")
        self._encode(frame, self._count)

    def add_frame(self, picture: Picture, time_s: float | None = None) -> None:
        """Add the next picture as it is coded; time_s: when it is shown, unless pictures come at a fixed
        rate.
        """
        self._encode(picture.copy(), self._count if time_s is None else round(time_s * CLOCK_HZ))

    def _encode(self, frame: Any, pts: int) -> None:
        frame.pts, frame.time_base = pts, self._video.codec_context.time_base
        self._count += 1
        with self._writing():
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
        with self._writing():
            self._container.mux(self._audio.encode(frame))
