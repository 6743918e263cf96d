"""The one place that changes aiortc's and aioice's process-wide constants and private parts (aiortc 1.16)."""

from __future__ import annotations

import aioice.ice
import aiortc.codecs.h264
import aiortc.codecs.vpx
from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket

_interface_addresses = aioice.ice.get_host_addresses
LOOPBACK = "127.0.0.1"
CONSENT_CHECKS = 5  # unanswered in a row before a peer is given up


def set_up(*, video_bits_per_s: int, loopback: bool, vanish_after_s: float) -> None:
    """Set what aiortc offers no argument for; call once, before the first connection (again is harmless).

    video_bits_per_s: start bit rate; a browser's estimate (REMB) may move it between half and double.
    loopback: offer 127.0.0.1 as a candidate too, which aioice leaves out; without it, two programs on a
        machine with no other interface never find each other.
    vanish_after_s: how long a peer may leave consent checks unanswered, about.
    """
    for codec in (aiortc.codecs.vpx, aiortc.codecs.h264):
        codec.DEFAULT_BITRATE = video_bits_per_s
        codec.MIN_BITRATE = video_bits_per_s // 2
        codec.MAX_BITRATE = video_bits_per_s * 2
    aioice.ice.CONSENT_FAILURES = CONSENT_CHECKS
    # an unanswered check takes half a second to be noticed, on top of the pause between two checks
    aioice.ice.CONSENT_INTERVAL = max(0.1, vanish_after_s / CONSENT_CHECKS - 0.5)
    aioice.ice.get_host_addresses = _addresses_with_loopback if loopback else _addresses


def _addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    """Addresses of the interfaces; loopback only where there is nothing else."""
    addresses = _interface_addresses(use_ipv4=use_ipv4, use_ipv6=use_ipv6)
    return list(addresses) or [LOOPBACK]


def _addresses_with_loopback(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    return [*_interface_addresses(use_ipv4=use_ipv4, use_ipv6=use_ipv6), LOOPBACK]


class PromptAudioBuffer(JitterBuffer):  # type: ignore[misc]
    """Hands every Opus packet on as it comes, in order; packets that come after a later one are dropped.

    aiortc's own buffer holds four packets (83 ms) and, after one lost packet, stays ten packets late for
    good. Here a lost or late packet is a gap in the time stamps, which ``microphone`` fills with silence.
    """

    def __init__(self) -> None:
        super().__init__(capacity=1)
        self._newest: int | None = None

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """Return (False, the frame of this packet, or None when it is late or repeated)."""
        number = int(packet.sequence_number)
        if self._newest is not None and not 0 < (number - self._newest) & 0xFFFF < 0x8000:
            return False, None
        self._newest = number
        if not packet._data:
            return False, None
        return False, JitterFrame(data=packet._data, timestamp=packet.timestamp)


def use_prompt_audio_buffer(receiver: RTCRtpReceiver) -> None:
    """Replace the jitter buffer of an audio receiver that has not started yet."""
    name = "_RTCRtpReceiver__jitter_buffer"
    if not isinstance(getattr(receiver, name), JitterBuffer):
        raise RuntimeError("aiortc's receiver has no jitter buffer of the expected name")
    setattr(receiver, name, PromptAudioBuffer())
