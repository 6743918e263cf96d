"""Listens to the microphone of one connection: packets in, sound out, on time even when none comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiortc.rtp import RtpPacket

from mytalk.errors import MyTalkError, SessionClosed
from mytalk.types import I16
from server.rtc.microphone import Microphone

logger = logging.getLogger(__name__)
LONGEST_WAIT_S = 1.0  # a bound for a timer, whatever the buffer asks for


class Listener:
    """Owns a ``Microphone`` and its timer. Everything runs on the event loop; ``close`` ends it."""

    def __init__(self, hear: Callable[[I16], None], clock: Callable[[], float], name: str) -> None:
        """hear: takes int16 [n], 48 kHz mono; the session decides what it drops."""
        self._hear = hear
        self._clock = clock
        self._name = name
        self._microphone = Microphone()
        self._timer: asyncio.TimerHandle | None = None
        self._refused = 0
        self._closed = False

    def receive(self, packet: RtpPacket) -> None:
        """Take one RTP packet of Opus, as it came."""
        if self._closed:
            return
        now = self._clock()
        sound = self._microphone.receive(
            source=packet.ssrc,
            number=packet.sequence_number,
            timestamp=packet.timestamp,
            payload=packet.payload,
            now=now,
        )
        self._give(sound)
        self._set_timer(now)

    def close(self) -> None:
        """Hear nothing from now on; idempotent."""
        self._closed = True
        self._cancel_timer()

    def stats(self) -> dict[str, Any] | None:
        """Figures of the microphone for the ``stats`` message; None before its first packet."""
        microphone, counted = self._microphone, self._microphone.stats
        if not counted.received:
            return None
        return {
            "packets": counted.received,
            "lost": counted.lost,
            "late": counted.late,
            "repeated": counted.repeated,
            "reordered": counted.reordered,
            "restarts": counted.restarts,
            "undecodable": microphone.undecodable,
            "concealed_s": round(counted.concealed_s, 3),
            "paused_s": round(counted.paused_s, 3),
            "depth_ms": round(microphone.depth_s * 1e3, 1),
        }

    def _give(self, sound: I16) -> None:
        if not len(sound):
            return
        try:
            self._hear(sound)
        except SessionClosed:
            self.close()
        except MyTalkError as error:
            # One piece that cannot be used must not end the microphone, nor a thousand fill the log.
            self._refused += 1
            if self._refused == 1:
                logger.warning("session %s: sound of the microphone dropped: %s", self._name, error)

    def _set_timer(self, now: float) -> None:
        self._cancel_timer()
        due_s = self._microphone.next_due()
        if due_s is not None and not self._closed:
            wait_s = min(max(0.0, due_s - now), LONGEST_WAIT_S)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._wake)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._timer = None
        now = self._clock()
        self._give(self._microphone.poll(now))
        self._set_timer(now)
