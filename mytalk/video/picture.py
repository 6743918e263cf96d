"""One picture of a video, kept as it was coded: parts of it as RGB, and changed RGB put back into it exactly.

Going to RGB and back costs a rounding in every pixel, so the picture stays in its own planes (pixel format,
range, matrix): only what was really changed is converted back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from mytalk.types import U8

BT709, BT601 = 1, 5  # swscale colour spaces
HD_LINES = 720  # an untagged video of at least so many lines is BT.709, as players guess
MPEG, JPEG = 1, 2  # colour ranges: 16..235, 0..255
# Formats that are kept, and how many luma pixels share a chroma sample: (across, down).
CHROMA = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (2, 1),
    "yuvj422p": (2, 1),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
    "yuv420p10le": (2, 2),
    "yuv422p10le": (2, 1),
    "yuv444p10le": (1, 1),
    "rgb24": (1, 1),
}

Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels; right and bottom are outside


def kept_format(name: str) -> str:
    """The pixel format in which a picture of any format is worked on: its own, or the nearest one."""
    if name in CHROMA and name != "rgb24":
        return name
    deep = name.endswith(("le", "be"))  # only samples of more than a byte have an order of bytes
    if "rgb" in name or "bgr" in name or "gbr" in name or "444" in name:
        return "yuv444p10le" if deep and "444" in name else "yuv444p"
    if "422" in name or name in ("nv16", "uyvy"):
        return "yuv422p10le" if deep else "yuv422p"
    return "yuv420p10le" if deep else "yuv420p"


def swscale_space(tag: int, height: int) -> int:
    """Colour matrix of a frame in swscale's numbers, from its tag; untagged: guessed as players do."""
    if tag not in (BT709, 4, BT601, 6, 7, 9, 10):
        return BT709 if height >= HD_LINES else BT601
    return {6: BT601, 10: 9}.get(tag, tag)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it was coded, upright and progressive.

    time_s: since its stream began. frame: ``av.VideoFrame`` in one of the formats of ``CHROMA``; it may
    belong to the decoder, so it is never written to. aspect: width of a pixel ÷ its height.
    """

    time_s: float
    frame: Any
    aspect: float = 1.0

    @classmethod
    def from_rgb(cls, rgb: U8, time_s: float = 0.0) -> Picture:
        """A picture from uint8 RGB [H, W, 3]."""
        return cls(time_s, av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))

    @property
    def width(self) -> int:
        """Pixels as coded; see ``aspect``."""
        return int(self.frame.width)

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.frame.height)

    @property
    def nbytes(self) -> int:
        """Memory that the picture takes."""
        return sum(int(plane.buffer_size) for plane in self.frame.planes)

    def _range(self) -> int:
        full = self.frame.format.name.startswith("yuvj") or int(self.frame.color_range) == JPEG
        return JPEG if full else MPEG

    def aligned(self, box: tuple[float, float, float, float]) -> Box:
        """The smallest box around ``box``, inside the picture, that no chroma sample straddles.

        Empty (right ≤ left or bottom ≤ top) when they do not meet.
        """
        across, down = CHROMA[self.frame.format.name]
        left, top = (max(0, int(np.floor(v / n)) * n) for v, n in zip(box[:2], (across, down), strict=True))
        right, bottom = (int(np.ceil(v / n)) * n for v, n in zip(box[2:], (across, down), strict=True))
        return left, top, min(right, self.width), min(bottom, self.height)

    @property
    def box(self) -> Box:
        """All of it."""
        return 0, 0, self.width, self.height

    def copy(self) -> Any:
        """An ``av.VideoFrame`` of its own, without time stamp and picture type: ready for an encoder."""
        return _copy(self.frame)

    def _part(self, box: Box) -> Any:
        """An ``av.VideoFrame`` with the pixels of an aligned box."""
        left, top, right, bottom = box
        if box == self.box:
            return self.frame
        cut = av.VideoFrame(right - left, bottom - top, self.frame.format.name)
        for source, target, sub in zip(_planes(self.frame), _planes(cut), _steps(self.frame), strict=True):
            rows = slice(top // sub[1], top // sub[1] + target.shape[0])
            columns = slice(left // sub[0], left // sub[0] + target.shape[1])
            target[:] = source[rows, columns]
        return cut

    def rgb(self, box: Box | None = None, size: tuple[int, int] | None = None) -> U8:
        """Pixels of an aligned box (None: all) as uint8 RGB [H, W, 3], scaled to ``size`` (width, height)."""
        frame = self._part(box or self.box)
        width, height = size or (frame.width, frame.height)
        smaller = width < frame.width
        rgb = frame.reformat(
            width,
            height,
            "rgb24",
            src_colorspace=swscale_space(int(self.frame.colorspace), self.height),
            src_color_range=self._range(),
            interpolation="AREA" if smaller else "BICUBIC",
        )
        return np.asarray(rgb.to_ndarray(), np.uint8)

    def with_rgb(self, box: Box, before: U8, after: U8) -> Picture:
        """This picture with the pixels of an aligned box replaced where ``after`` differs from ``before``.

        before, after: uint8 RGB [h, w, 3], of the box. Every sample of which no pixel was changed is the
        source's own, exactly.
        """
        changed = (before != after).any(axis=2)
        if not changed.any():
            return self
        name = self.frame.format.name
        coded = av.VideoFrame.from_ndarray(np.ascontiguousarray(after), format="rgb24").reformat(
            format=name,
            dst_colorspace=swscale_space(int(self.frame.colorspace), self.height),
            dst_color_range=self._range(),
            interpolation="BICUBIC",
        )
        frame = _copy(self.frame)
        left, top = box[:2]
        for target, source, (across, down) in zip(_planes(frame), _planes(coded), _steps(frame), strict=True):
            # A box at an odd edge of the picture ends within a chroma sample.
            touched = np.pad(changed, ((0, -changed.shape[0] % down), (0, -changed.shape[1] % across)))
            touched = touched.reshape(touched.shape[0] // down, down, touched.shape[1] // across, across).any(
                axis=(1, 3)
            )
            if source.ndim == 3:
                touched = touched[..., None]
            rows = slice(top // down, top // down + source.shape[0])
            columns = slice(left // across, left // across + source.shape[1])
            target[rows, columns] = np.where(touched, source, target[rows, columns])
        return Picture(self.time_s, frame, self.aspect)


def _copy(frame: Any) -> Any:
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for source, target in zip(_planes(frame), _planes(copy), strict=True):
        target[:] = source
    copy.color_range, copy.colorspace = frame.color_range, frame.colorspace
    copy.color_primaries, copy.color_trc = frame.color_primaries, frame.color_trc
    return copy


def evened(frame: Any, width: int, height: int) -> Any:
    """A frame whose last column or row is repeated once, where it takes that to get to a size."""
    if (frame.width, frame.height) == (width, height):
        return frame
    out = av.VideoFrame(width, height, frame.format.name)
    for source, target in zip(_planes(frame), _planes(out), strict=True):
        missing = [(0, b - a) for a, b in zip(source.shape, target.shape, strict=True)]
        target[:] = np.pad(source, missing, mode="edge")
    out.color_range, out.colorspace = frame.color_range, frame.colorspace
    return out


def _planes(frame: Any) -> list[npt.NDArray[Any]]:
    """Views of a frame's samples: [h, w] per plane, rgb24: one [H, W, 3]."""
    name = frame.format.name
    views: list[npt.NDArray[Any]] = []
    for plane in frame.planes:
        kind = np.dtype("<u2") if name.endswith("10le") else np.dtype(np.uint8)
        rows: npt.NDArray[Any] = np.frombuffer(plane, kind)
        rows = rows.reshape(plane.height, plane.line_size // kind.itemsize)
        if name == "rgb24":
            views.append(rows[:, : plane.width * 3].reshape(plane.height, plane.width, 3))
        else:
            views.append(rows[:, : plane.width])
    return views


def _steps(frame: Any) -> list[tuple[int, int]]:
    """How many luma pixels, across and down, one sample of each plane stands for."""
    chroma = CHROMA[frame.format.name]
    return [(1, 1), chroma, chroma][: len(frame.planes)]


def planes(picture: Picture) -> list[npt.NDArray[Any]]:
    """Copies of the picture's samples as coded, [h, w] per plane, for comparing."""
    return [plane.copy() for plane in _planes(picture.frame)]
