"""Pictures as an encoder takes them: yuv420p (BT.601, 16..235) in one array, half the bytes of RGB.

A planar picture is uint8 [H·3/2, W], H and W even: H rows of luma, then both chroma planes, H/2 × W/2 each.
"""

from __future__ import annotations

import threading
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from mytalk.types import U8

WHITE = (235, 128, 128)  # luma and both chroma of the brightest
SUBSAMPLED, FULL = "yuv420p", "yuv444p"


class _Converter(threading.local):
    """Each thread's own, as it keeps tables between two pictures of one size.

    It has no threads of its own: they do not live in a forked process, which would wait for them for ever
    when it gives back what other threads had (uvloop forks to start a process).
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, frame: Any, target: str) -> Any:
        """A frame in another pixel format."""
        return self._reformatter.reformat(frame, format=target, threads=1)


_converter = _Converter()


def _rgb_frame(rgb: U8) -> Any:
    return av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(rgb), "rgb24")


def planar(rgb: U8) -> U8:
    """uint8 RGB [H, W, 3] → planar; the last column or row of an odd size is left out."""
    height, width = (size // 2 * 2 for size in rgb.shape[:2])
    return np.asarray(_converter.convert(_rgb_frame(rgb[:height, :width]), SUBSAMPLED).to_ndarray(), np.uint8)


def rgb_of(picture: U8) -> U8:
    """Planar → uint8 RGB [H, W, 3]."""
    return np.asarray(_converter.convert(frame_of(picture), "rgb24").to_ndarray(), np.uint8)


def frame_of(picture: U8) -> Any:
    """Planar → ``av.VideoFrame``, of the same memory: it must not change as long as the frame is used."""
    if size_of(picture)[1] % 4:  # PyAV takes such a height for another one
        return av.VideoFrame.from_ndarray(picture, SUBSAMPLED)
    return av.VideoFrame.from_numpy_buffer(picture, SUBSAMPLED)


def full_planes(rgb: U8) -> tuple[U8, ...]:
    """uint8 RGB [H, W, 3] → luma and chroma of every pixel, uint8 [H, W] each."""
    frame = _converter.convert(_rgb_frame(rgb), FULL)
    rows = (np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes)
    return tuple(row[:, : frame.width] for row in rows)


def size_of(picture: U8) -> tuple[int, int]:
    """Width and height of a planar picture."""
    return picture.shape[1], len(picture) * 2 // 3


def planes_of(picture: U8) -> tuple[U8, U8, U8]:
    """Views of a planar picture: luma [H, W], chroma [H/2, W/2] twice."""
    width, height = size_of(picture)
    chroma = picture[height:].reshape(2, height // 2, width // 2)
    return picture[:height], chroma[0], chroma[1]


def whiten(picture: U8) -> None:
    """Make the top-left quarter of a planar picture white, in place."""
    for plane, value in zip(planes_of(picture), WHITE, strict=True):
        plane[: plane.shape[0] // 2, : plane.shape[1] // 2] = value
