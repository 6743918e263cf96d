"""The idle loop of an actor, encoded once for all who look at it while it says nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from mytalk.types import U8
from server.rtc.video_encoder import OutPicture, ReelPart, encode_h264, open_h264

KEY_EVERY = 50  # frames: who falls silent waits so long for a place to join, two seconds at most
PIECE = 4  # pictures encoded at a time, some 8 ms of one core at 512×512


class IdleReel:
    """H.264 parts for every play position of the loop; there are none until all are encoded.

    Its pictures are those of ``picture_at``, which must not change any more. Memory: some 4 kB a picture.
    """

    def __init__(
        self, order: npt.NDArray[np.int32], picture_at: Callable[[int], U8], *, name: str, bits_per_s: int
    ) -> None:
        """order: int32 [P], clip frame shown at each play position. name: one of ``H264_OPTIONS``."""
        self._order = tuple(int(index) for index in order)
        self._picture_at = picture_at
        self._name, self._bits_per_s = name, bits_per_s
        self._encoded: list[bytes] = []
        self._codec: Any = None

    @property
    def complete(self) -> bool:
        """Whether it can be shown."""
        return len(self._encoded) == len(self._order)

    @property
    def memory_bytes(self) -> int:
        """What the encoded parts take."""
        return sum(map(len, self._encoded))

    def encode_next(self) -> bool:
        """Encode a few more pictures (slow, one thread at a time); False when all are done.

        Raises ``av.FFmpegError`` or ``ValueError`` when the encoder cannot be used.
        """
        begin = len(self._encoded)
        for place in range(begin, min(begin + PIECE, len(self._order))):
            picture = OutPicture(self._picture_at(self._order[place]), place).as_frame()
            if self._codec is None:
                self._codec = open_h264(self._name, picture.width, picture.height, self._bits_per_s)
            self._encoded.append(encode_h264(self._codec, picture, key=place % KEY_EVERY == 0))
        if self.complete:
            self._codec = None
        return not self.complete

    def part(self, play_position: int) -> ReelPart | None:
        """The part for a play position (any integer ≥ 0, it wraps); None until the reel is complete."""
        if not self.complete:
            return None
        length = len(self._order)
        place = play_position % length
        return ReelPart(place, length, place % KEY_EVERY == 0, self._encoded[place], self._bits_per_s)
