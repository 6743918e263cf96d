"""How loud a sound is that goes on and on, such as a fan's: speech rises and falls, noise hardly does."""

from __future__ import annotations

from collections import deque

import numpy as np

from mytalk.clock import ANALYSIS_RATE
from mytalk.types import I16

PIECE_S = 0.1
WINDOW_S = 2.0  # hardly anybody speaks for so long without a breath or a stop consonant
PIECE, PIECES = round(PIECE_S * ANALYSIS_RATE), round(WINDOW_S / PIECE_S)


class SteadyLevel:
    """The peak that 16 kHz sound has not fallen below for two seconds, whatever is loud above it."""

    def __init__(self) -> None:
        self._peaks: deque[int] = deque(maxlen=PIECES)  # of 100 ms each
        self._peak = self._heard = 0  # of the piece that is coming in

    def hear(self, samples: I16) -> None:
        """Take the next samples, int16 [n]; any split gives the same."""
        sizes = np.abs(samples.astype(np.int32))
        while len(sizes):
            part = sizes[: PIECE - self._heard]
            self._peak = max(self._peak, int(part.max()))
            self._heard += len(part)
            sizes = sizes[len(part) :]
            if self._heard == PIECE:
                self._peaks.append(self._peak)
                self._peak = self._heard = 0

    @property
    def peak(self) -> int:
        """Least 100 ms peak of the last two seconds, 0 .. 32,768; 0 before they are over."""
        return min(self._peaks) if len(self._peaks) == PIECES else 0
