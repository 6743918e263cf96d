"""The one place that changes aiortc's and aioice's process-wide constants and private parts (aiortc 1.16)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aioice.ice
import aiortc
import aiortc.clock
import aiortc.codecs.h264
import aiortc.codecs.vpx
from aiortc import RTCRtpReceiver, RTCRtpTransceiver
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket

from server.compute.cpu import SENDING
from server.rtc.video_encoder import encoder_for

logger = logging.getLogger(__name__)
AIORTC = Path(aiortc.__file__).parent
_interface_addresses = aioice.ice.get_host_addresses
LOOPBACK = "127.0.0.1"
NTP_EPOCH_S = 2_208_988_800  # from 1900 to 1970
CONSENT_CHECKS = 5  # unanswered in a row before a peer is given up


def set_up(*, video_bits_per_s: int, loopback: bool, vanish_after_s: float) -> None:
    """Set what aiortc offers no argument for; call once, before the first connection (again is harmless).

    video_bits_per_s: start bit rate; a browser's estimate (REMB) may move it between half and double.
    loopback: offer 127.0.0.1 as a candidate too, which aioice leaves out; without it, two programs on a
        machine with no other interface never find each other.
    vanish_after_s: how long a peer may leave consent checks unanswered, about.
    """
    SENDING.install()
    aiortc.clock.current_ntp_time = _ntp_time
    for codec in (aiortc.codecs.vpx, aiortc.codecs.h264):
        codec.DEFAULT_BITRATE = video_bits_per_s
        codec.MIN_BITRATE = video_bits_per_s // 2
        codec.MAX_BITRATE = video_bits_per_s * 2
    aioice.ice.CONSENT_FAILURES = CONSENT_CHECKS
    # an unanswered check takes half a second to be noticed, on top of the pause between two checks
    aioice.ice.CONSENT_INTERVAL = max(0.1, vanish_after_s / CONSENT_CHECKS - 0.5)
    aioice.ice.get_host_addresses = _addresses_with_loopback if loopback else _addresses


def expect_lost_peers(loop: asyncio.AbstractEventLoop) -> None:
    """Let tasks that aiortc starts and forgets fail to send in silence; everything else is told as before.

    When a peer is gone, a timer of its data channel may still start such a task, whose ``ConnectionError``
    would be logged as an error, with a trace, for each of them.
    """
    loop.set_exception_handler(_tell_unless_aiortc_lost_a_peer)


def _tell_unless_aiortc_lost_a_peer(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    task, error = context.get("future"), context.get("exception")
    code = getattr(task.get_coro(), "cr_code", None) if isinstance(task, asyncio.Task) else None
    if isinstance(error, ConnectionError) and code is not None and AIORTC in Path(code.co_filename).parents:
        logger.debug("a peer is gone: %s", error)
    else:
        loop.default_exception_handler(context)


def _ntp_time() -> int:
    """Now as an NTP time stamp (32.32 bits). aiortc asks twice for every packet, and goes through dates."""
    seconds, rest_ns = divmod(time.time_ns(), 1_000_000_000)
    return (seconds + NTP_EPOCH_S << 32) | (rest_ns << 32) // 1_000_000_000


def _addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    """Addresses of the interfaces; loopback only where there is nothing else."""
    addresses = _interface_addresses(use_ipv4=use_ipv4, use_ipv6=use_ipv6)
    return list(addresses) or [LOOPBACK]


def _addresses_with_loopback(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    return [*_interface_addresses(use_ipv4=use_ipv4, use_ipv6=use_ipv6), LOOPBACK]


class _Tap(JitterBuffer):  # type: ignore[misc]
    """Stands in for a jitter buffer of aiortc's; every packet goes elsewhere, none to aiortc's decoder."""

    def __init__(self, take: Callable[[RtpPacket], None]) -> None:
        super().__init__(capacity=1)
        self._take = take

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """Hand the packet on; returns aiortc's (ask for a key picture, a complete frame)."""
        self._take(packet)
        return False, None


def take_packets(receiver: RTCRtpReceiver, take: Callable[[RtpPacket], None]) -> None:
    """Have every packet of a receiver that has not started yet handed to ``take``, as it comes.

    aiortc's own audio buffer holds four packets (83 ms) and, after one lost packet, stays ten packets late
    for good; behind it there are two queues without bounds.
    """
    name = "_RTCRtpReceiver__jitter_buffer"
    if not isinstance(getattr(receiver, name), JitterBuffer):
        raise RuntimeError("aiortc's receiver has no jitter buffer of the expected name")
    setattr(receiver, name, _Tap(take))


def use_own_encoder(transceiver: RTCRtpTransceiver, encoder: str) -> None:
    """Have an outgoing video encoded by us; call when the codec is agreed and nothing was sent yet.

    encoder: as in ``video_encoder.encoder_for``. Without an agreed codec (video refused) nothing happens.
    """
    name = "_RTCRtpSender__encoder"
    if getattr(transceiver.sender, name) is not None:
        raise RuntimeError("aiortc's sender has an encoder already")
    if transceiver._codecs:
        setattr(transceiver.sender, name, encoder_for(transceiver._codecs[0].mimeType, encoder))
