"""What encodes the outgoing sound: Opus, mono, a packet at a time, on the event loop.

A packet takes a tenth of a millisecond, which is about what it costs to have another thread do it. aiortc is
handed finished packets: from samples it would make stereo of mono, and measure their level in Python, which
takes as long again and is of use to nobody but a mixer.
"""

from __future__ import annotations

import fractions
from typing import Any

import av
import numpy as np

from mytalk.clock import PLAYOUT_RATE, exact_div
from mytalk.types import I16

PACKET_SAMPLES = exact_div(PLAYOUT_RATE, 50)  # 960 samples, 20 ms
TIME_BASE = fractions.Fraction(1, PLAYOUT_RATE)
BITS_PER_S = 64_000  # full band; with more, a voice sounds the same


class OpusEncoder:
    """One stream of sound; not thread-safe."""

    def __init__(self) -> None:
        self._codec: Any = av.CodecContext.create("libopus", "w")
        self._codec.bit_rate, self._codec.sample_rate = BITS_PER_S, PLAYOUT_RATE
        self._codec.format, self._codec.layout = "s16", "mono"
        self._codec.time_base = TIME_BASE
        # not voip: at this rate it is no better for a voice, and speech may be what a synthesiser makes of it
        self._codec.options = {"application": "audio"}

    def encode(self, samples: I16, pts: int) -> av.Packet:
        """int16 [960] → its packet, with this time in samples."""
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = PLAYOUT_RATE, None, TIME_BASE
        (packet,) = self._codec.encode(frame)  # one in, one out: 20 ms is the codec's own unit
        packet.pts, packet.time_base = pts, TIME_BASE
        return packet
