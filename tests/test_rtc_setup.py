"""What is changed in aiortc and aioice, and that the changes still fit the pinned releases."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Iterator

import aioice.ice
import aiortc.clock
import aiortc.codecs.h264
import aiortc.codecs.vpx
import pytest
from aiortc import RTCPeerConnection
from aiortc.rtp import RtpPacket

from server.rtc import setup as rtc_setup
from server.rtc.setup import LOOPBACK, take_packets


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Put the process-wide constants back."""
    codecs = [(codec, name) for codec in (aiortc.codecs.vpx, aiortc.codecs.h264) for name in BITRATES]
    codecs.append((aiortc.clock, "current_ntp_time"))
    ice = [(aioice.ice, name) for name in ("CONSENT_FAILURES", "CONSENT_INTERVAL", "get_host_addresses")]
    saved = [(owner, name, getattr(owner, name)) for owner, name in codecs + ice]
    yield
    for owner, name, value in saved:
        setattr(owner, name, value)


BITRATES = ("DEFAULT_BITRATE", "MIN_BITRATE", "MAX_BITRATE")


def test_packets_are_stamped_as_before() -> None:
    rtc_setup.set_up(video_bits_per_s=1_000_000, loopback=False, vanish_after_s=15.0)
    assert aiortc.clock.current_ntp_time is rtc_setup._ntp_time
    aiortcs_own = aiortc.clock.datetime_to_ntp(aiortc.clock.current_datetime())
    assert abs(aiortc.clock.current_ntp_time() - aiortcs_own) / 2**32 < 0.5


@pytest.mark.parametrize(("vanish_after_s", "interval_s"), [(15.0, 2.5), (5.0, 0.5), (0.5, 0.1)])
def test_constants(vanish_after_s: float, interval_s: float) -> None:
    for _ in range(2):  # again is harmless
        rtc_setup.set_up(video_bits_per_s=1_000_000, loopback=False, vanish_after_s=vanish_after_s)
        for codec in (aiortc.codecs.vpx, aiortc.codecs.h264):
            assert [getattr(codec, name) for name in BITRATES] == [1_000_000, 500_000, 2_000_000]
        assert aioice.ice.CONSENT_FAILURES == rtc_setup.CONSENT_CHECKS
        assert pytest.approx(interval_s) == aioice.ice.CONSENT_INTERVAL


@pytest.mark.parametrize(
    ("found", "loopback", "offered"),
    [
        (["10.0.0.5"], False, ["10.0.0.5"]),
        (["10.0.0.5"], True, ["10.0.0.5", LOOPBACK]),
        ([], False, [LOOPBACK]),
        ([], True, [LOOPBACK]),
    ],
)
def test_addresses(
    monkeypatch: pytest.MonkeyPatch, found: list[str], loopback: bool, offered: list[str]
) -> None:
    monkeypatch.setattr(rtc_setup, "_interface_addresses", lambda use_ipv4, use_ipv6: found)
    rtc_setup.set_up(video_bits_per_s=1_000_000, loopback=loopback, vanish_after_s=15)
    assert aioice.ice.get_host_addresses(use_ipv4=True, use_ipv6=False) == offered


async def test_the_receiver_of_this_aiortc_hands_its_packets_over() -> None:
    connection, taken = RTCPeerConnection(), []
    try:
        receiver = connection.addTransceiver("audio").receiver
        take_packets(receiver, taken.append)
        buffer = receiver._RTCRtpReceiver__jitter_buffer
        packet = RtpPacket(sequence_number=3, timestamp=960, payload=b"x")
        assert buffer.add(packet) == (False, None)
        assert taken == [packet]
        receiver._RTCRtpReceiver__jitter_buffer = None
        with pytest.raises(RuntimeError, match="no jitter buffer"):
            take_packets(receiver, taken.append)
    finally:
        await connection.close()


async def test_a_task_that_aiortc_forgot_may_lose_its_peer_and_every_other_failure_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(error: Exception) -> None:
        raise error

    async def forgotten(coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        await asyncio.wait([task])
        del task
        gc.collect()

    loop = asyncio.get_running_loop()
    rtc_setup.expect_lost_peers(loop)
    peer = RTCPeerConnection()
    peer.createDataChannel("control")
    sctp = peer.sctp
    assert sctp is not None
    with caplog.at_level(logging.ERROR, "asyncio"):
        await forgotten(sctp.transport._send_data(b"chunk"))  # never connected: DTLS refuses
        assert caplog.records == []
        await forgotten(fails(ConnectionError("ours")))
        await forgotten(fails(ValueError("theirs")))
    assert [record.exc_info[1].args[0] for record in caplog.records if record.exc_info] == ["ours", "theirs"]
    await peer.close()
