"""Take pictures and sound from aiortc the moment they are complete, and read the sender's clock.

aiortc 1.16 hands a picture over only when the next one starts (40 ms late) and sound four packets late
(83 ms); a browser shows a picture when its last packet is there. A client that measures must not add delays
of its own, so both buffers are replaced by prompt ones. Their names are private, so aiortc is pinned.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtcpSrPacket

NTP_FRACTION = 1 << 32
KEPT_UNITS = 512  # of which it is known when their first packet came
CLOCK_RATE_HZ = {"audio": 48_000, "video": 90_000}


class PromptJitterBuffer(JitterBuffer):  # type: ignore[misc]
    """aiortc's buffer, but a unit that is complete leaves at once.

    A video unit is complete with its marker packet, an Opus packet always. Units after a lost packet
    take the usual road (retransmission, or removal when the buffer is full).
    """

    def __init__(self, is_video: bool) -> None:
        super().__init__(capacity=512 if is_video else 16, is_video=is_video)
        self.first_timestamp: int | None = None  # RTP time of the unit that got pts 0
        self._came_s: dict[int, float] = {}  # RTP time → arrival of its first packet, monotonic; oldest first

    def add(self, packet: Any) -> tuple[bool, JitterFrame | None]:
        """Store a packet; returns (ask for a key picture, a complete unit or None)."""
        if packet.timestamp not in self._came_s:
            self._came_s[packet.timestamp] = time.monotonic()
            if len(self._came_s) > KEPT_UNITS:
                del self._came_s[next(iter(self._came_s))]
        lost, unit = super().add(packet)
        if unit is None and (packet.marker or not self._is_video):
            unit = self._take_complete(packet)
        if unit is not None and self.first_timestamp is None:
            self.first_timestamp = unit.timestamp
        return lost, unit

    def came_s(self, ticks: int) -> float | None:
        """When the first packet of the unit with this pts came, monotonic; None: that was long ago."""
        return self._came_s.get(((self.first_timestamp or 0) + ticks) & 0xFFFFFFFF)

    def _take_complete(self, last: Any) -> JitterFrame | None:
        if self._origin is None:
            return None
        count = ((last.sequence_number - self._origin) & 0xFFFF) + 1
        if count > self.capacity:
            return None
        packets = [self._packets[(self._origin + i) % self.capacity] for i in range(count)]
        if any(p is None or p.timestamp != last.timestamp for p in packets):
            return None
        self.remove(count)
        return JitterFrame(data=b"".join(p._data for p in packets), timestamp=last.timestamp)


class SenderClock:
    """The sender's own clock of one stream, from its RTCP sender reports (RTP time ↔ NTP time)."""

    def __init__(self, kind: str, buffer: PromptJitterBuffer) -> None:
        self.rate_hz = CLOCK_RATE_HZ[kind]
        self._buffer = buffer
        self._offsets_s: list[float] = []  # NTP − RTP seconds of each report, bounded below

    def report(self, ntp_timestamp: int, rtp_timestamp: int) -> None:
        """Take one sender report."""
        if self._buffer.first_timestamp is None:
            return
        ticks = (rtp_timestamp - self._buffer.first_timestamp) & 0xFFFFFFFF
        if ticks >= 1 << 31:
            ticks -= 1 << 32
        self._offsets_s.append(ntp_timestamp / NTP_FRACTION - ticks / self.rate_hz)
        del self._offsets_s[:-64]

    def came_s(self, pts_s: float) -> float | None:
        """When the first packet of a unit came (monotonic seconds), by its media time; None: long ago."""
        return self._buffer.came_s(round(pts_s * self.rate_hz))

    def ntp_s(self, pts_s: float) -> float | None:
        """Sender's NTP time of a media time (seconds since the stream's first unit); None before any report.

        A report carries the time at which its packet was *sent*, so each is late by that packet's own
        delay; the median of the reports is what a player that smooths them would use.
        """
        if not self._offsets_s:
            return None
        ordered = sorted(self._offsets_s)
        return pts_s + ordered[len(ordered) // 2]


def make_prompt(receiver: RTCRtpReceiver, kind: str) -> SenderClock:
    """Replace a receiver's jitter buffer before it starts, and listen to its sender reports."""
    buffer = PromptJitterBuffer(kind == "video")
    setattr(receiver, "_RTCRtpReceiver__jitter_buffer", buffer)  # noqa: B010 - the name is private to aiortc
    clock = SenderClock(kind, buffer)
    handle: Callable[[Any], Awaitable[None]] = receiver._handle_rtcp_packet

    async def listen(packet: Any) -> None:
        if isinstance(packet, RtcpSrPacket):
            clock.report(packet.sender_info.ntp_timestamp, packet.sender_info.rtp_timestamp)
        await handle(packet)

    receiver._handle_rtcp_packet = listen
    return clock
