"""The shared idle loop: its parts, in play order, decode to the pictures they stand for."""

from __future__ import annotations

import av
import numpy as np
import pytest

from mytalk.types import U8
from mytalk.video.planar import planar
from server.rtc.idle_reel import KEY_EVERY, PIECE, IdleReel


def grey(level: int) -> U8:
    return np.full((64, 64, 3), level, np.uint8)


def test_parts_follow_the_play_order_and_wrap() -> None:
    order = np.array([0, 1, 2, 1], np.int32)
    reel = IdleReel(order, lambda index: planar(grey(60 * index + 40)), name="libx264", bits_per_s=300_000)
    while reel.encode_next():
        pass
    assert reel.complete
    assert not reel.encode_next()
    decoder = av.CodecContext.create("h264", "r")
    for position in (0, 1, 2, 3, 4, 5):
        part = reel.part(position)
        assert part is not None
        assert (part.index, part.length, part.key) == (position % 4, 4, position % 4 == 0)
        (frame,) = decoder.decode(av.Packet(part.data))
        shown = frame.to_ndarray(format="rgb24").astype(int)
        assert np.abs(shown - grey(60 * int(order[position % 4]) + 40)).max() <= 3
    assert reel.memory_bytes > 0


def test_it_is_made_in_small_pieces_and_can_be_joined_every_two_seconds() -> None:
    calls: list[int] = []

    def picture_at(index: int) -> U8:
        calls.append(index)
        return planar(grey(index % 200))

    length = 2 * KEY_EVERY + 1
    reel = IdleReel(np.arange(length, dtype=np.int32), picture_at, name="libx264", bits_per_s=300_000)
    assert reel.part(0) is None
    assert reel.encode_next()
    assert calls == list(range(PIECE))
    while reel.encode_next():
        pass
    parts = [reel.part(position) for position in range(length)]
    assert [part.index for part in parts if part is not None and part.key] == [0, KEY_EVERY, 2 * KEY_EVERY]


def test_an_encoder_that_is_not_there_is_an_error() -> None:
    reel = IdleReel(np.zeros(3, np.int32), lambda _: planar(grey(0)), name="libx264", bits_per_s=300_000)
    reel._name = "h264_nothing"
    with pytest.raises((ValueError, KeyError)):
        reel.encode_next()
    assert not reel.complete
