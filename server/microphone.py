"""Incoming audio frames of any format → gapless 48 kHz mono int16 (sans I/O)."""

from __future__ import annotations

import av
import numpy as np

from mytalk.clock import PLAYOUT_RATE
from mytalk.types import I16

MAX_GAP_S = 1.0  # a longer pause in the time stamps is filled no further than this


class Microphone:
    """Converts frames as they come and fills gaps in their time stamps with silence.

    Time stamps are the sender's RTP clock, so lost packets and pauses (DTX) leave gaps that arrival times
    would hide. What overlaps the past (a restarted clock) is taken as it is, without a gap.
    """

    def __init__(self) -> None:
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None
        self._next_s: float | None = None  # where the next frame should start, on the sender's clock
        self.filled_samples = 0  # silence put in so far, 48 kHz samples

    def convert(self, frame: av.AudioFrame) -> I16:
        """Samples of one frame, int16 [n] at 48 kHz, with the silence that was missing before it."""
        silence = np.zeros(self._gap_samples(frame), np.int16)
        self.filled_samples += len(silence)
        layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        if layout != self._format:
            self._format = layout
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=PLAYOUT_RATE)
        assert self._resampler is not None
        frame.pts = None  # gaps are filled here; the resampler must not see them too
        pieces = [piece.to_ndarray()[0].astype(np.int16) for piece in self._resampler.resample(frame)]
        return np.concatenate([silence, *pieces])

    def _gap_samples(self, frame: av.AudioFrame) -> int:
        if frame.pts is None or frame.time_base is None:
            return 0
        start_s = float(frame.pts * frame.time_base)
        expected_s = self._next_s
        self._next_s = start_s + frame.samples / frame.sample_rate
        if expected_s is None:
            return 0
        gap_s = min(start_s - expected_s, MAX_GAP_S)
        return int(max(0, round(gap_s * PLAYOUT_RATE)))
