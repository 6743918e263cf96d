"""Opus packets as the network brings them → gapless 48 kHz mono int16 (sans I/O)."""

from __future__ import annotations

import av
import numpy as np

from mytalk.audio.conceal import Concealer
from mytalk.audio.jitter import JitterBuffer, JitterStats, Lost, Packet, Pause, Piece
from mytalk.clock import PLAYOUT_RATE
from mytalk.types import I16

REST_BYTES = 2  # an Opus packet of so few says that the sender is silent until its next packet (DTX)
FRAME_MS = (10, 20, 40, 60) * 3 + (10, 20) * 2 + (2.5, 5, 10, 20) * 4  # by configuration (RFC 6716, 3.1)
MOST_SAMPLES = PLAYOUT_RATE * 120 // 1000  # of one packet


def opus_samples(payload: bytes) -> int:
    """How many 48 kHz samples an Opus packet holds; 0 for none, or one that cannot be one."""
    if not payload:
        return 0
    code = payload[0] & 3
    frames = (1, 2, 2, payload[1] & 0x3F if len(payload) > 1 else 0)[code]
    samples = round(FRAME_MS[payload[0] >> 3] * PLAYOUT_RATE / 1000) * frames
    return samples if samples <= MOST_SAMPLES else 0


class Microphone:
    """Puts packets in order, decodes them, makes up what was lost and fills pauses by RTP time stamps.

    Not thread-safe; ``now`` is monotonic seconds. Decoding takes 0.1 ms a packet.
    """

    def __init__(self) -> None:
        self.undecodable = 0  # packets that hold no sound
        self._buffer = JitterBuffer()
        self._concealer = Concealer()
        self._decoder = _decoder()

    @property
    def stats(self) -> JitterStats:
        """Counters since the start."""
        return self._buffer.stats

    @property
    def depth_s(self) -> float:
        """How late a packet may come at present and still be waited for."""
        return self._buffer.depth_s

    def receive(self, *, source: int, number: int, timestamp: int, payload: bytes, now: float) -> I16:
        """Take a packet (RTP's SSRC, sequence number and time stamp); returns int16 [n] that is due."""
        samples = opus_samples(payload)
        rests = 0 < len(payload) <= REST_BYTES
        self._buffer.add(Packet(source, number, timestamp, samples, payload, rests), now)
        return self.poll(now)

    def poll(self, now: float) -> I16:
        """Sound that is due by now although nothing came: int16 [n]."""
        pieces = [self._sound(piece) for piece in self._buffer.take(now)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)

    def next_due(self) -> float | None:
        """When to ``poll``, at the latest; None: not before the next packet."""
        return self._buffer.next_due()

    def _sound(self, piece: Piece) -> I16:
        if isinstance(piece, Pause):
            return self._concealer.push(np.zeros(piece.samples, np.int16))
        if isinstance(piece, Lost):
            return self._concealer.conceal(piece.samples)
        decoded = self._decoded(piece.payload)
        if len(decoded) != piece.samples:  # the line stays gapless, whatever the packet says
            self.undecodable += 1
            return self._concealer.conceal(piece.samples)
        return self._concealer.push(decoded)

    def _decoded(self, payload: bytes) -> I16:
        try:
            frames = self._decoder.decode(av.Packet(payload))
        except av.FFmpegError:
            return np.zeros(0, np.int16)
        return np.concatenate([np.zeros(0, np.int16), *(frame.to_ndarray()[0] for frame in frames)])


def _decoder() -> av.CodecContext:
    decoder = av.CodecContext.create("libopus", "r")
    decoder.format, decoder.layout, decoder.sample_rate = "s16", "mono", PLAYOUT_RATE
    return decoder
