"""Real aiortc peers over a network that loses packets: no delay stays behind, as it does in aiortc."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Any

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import RtpPacket

from clients.headless.network import BadNetwork
from clients.headless.sources import Microphone as Talker
from clients.headless.testcard import ClickDetector, click_times, click_train
from mytalk.errors import Overloaded, SessionClosed
from mytalk.types import I16
from server.rtc.listening import Listener
from server.rtc.setup import take_packets
from tests.lossy import one_way, until

RATE = 48_000


class Ears:
    """Takes sound and notes when its clicks were here."""

    def __init__(self) -> None:
        self.samples = 0
        self.clicks: list[float] = []
        self.found = ClickDetector()

    def hear(self, sound: I16) -> None:
        now = time.monotonic()
        self.clicks += [now for _ in self.found.feed(sound)]
        self.samples += len(sound)

    def delays(self, talker: Talker, clicks_s: list[float]) -> list[float]:
        """Seconds from the capture of each 20 ms block with a click to its arrival."""
        assert talker.started_s is not None
        blocks = [talker.started_s + (int(c / 0.02) + 1) * 0.02 for c in clicks_s]
        return [min((at - b for at in self.clicks if at > b - 0.005), default=9.9) for b in blocks]


async def play(receive: Any, network: BadNetwork, seconds: float) -> list[float]:
    """Delays of the clicks of a short call; ``receive(receiver, peer, ears)`` connects the ears."""
    times, ears = click_times(seconds, first_s=0.5), Ears()
    talker = Talker(click_train(seconds, times))
    async with one_way(talker, network, lambda receiver, peer: receive(receiver, peer, ears)):
        await until(lambda: network.sent > 50 * seconds, seconds + 15)
        await asyncio.sleep(0.3)
    return ears.delays(talker, times)


def ours(receiver: Any, peer: Any, ears: Ears) -> None:
    take_packets(receiver, Listener(ears.hear, time.monotonic, "test").receive)


def aiortcs(receiver: Any, peer: Any, ears: Ears) -> None:
    async def listen(track: Any) -> None:
        try:
            while True:
                ears.hear(np.ascontiguousarray((await track.recv()).to_ndarray()[0][::2]))
        except MediaStreamError:
            pass

    peer.on("track", lambda track: asyncio.ensure_future(listen(track)))


def test_after_a_lost_packet_the_delay_is_what_it_was_and_with_aiortcs_buffer_it_is_not() -> None:
    def run(receive: Any) -> tuple[float, float]:
        delays = asyncio.run(play(receive, BadNetwork(drop=lambda number: number == 130), 6.0))
        return median(delays[:2]), median(delays[-3:])

    before, after = run(ours)
    assert after < before + 0.06
    before, after = run(aiortcs)
    assert after > before + 0.1, "or this test proves nothing"


@pytest.mark.parametrize("loss", [0.01, 0.05])
def test_a_bad_network_costs_no_more_than_the_depth(loss: float) -> None:
    network = BadNetwork(loss=loss, jitter_s=0.05)
    delays = sorted(asyncio.run(play(ours, network, 8.0)))
    heard = [d for d in delays if d < 1]
    assert network.dropped >= 1
    assert len(heard) >= len(delays) - 3, "a click may be in a lost packet"
    assert heard[len(heard) // 2] < 0.12


def rtp(number: int, payload: bytes = b"\xf8\xff\xfe", source: int = 7) -> RtpPacket:
    return RtpPacket(sequence_number=number, timestamp=number * 960, payload=payload, ssrc=source)


async def test_a_hole_is_given_up_by_the_clock_alone() -> None:
    heard: list[int] = []
    listener = Listener(lambda sound: heard.append(len(sound)), time.monotonic, "test")
    for number in range(0, 60, 2):  # every second one comes late: the depth grows
        listener.receive(rtp(number))
        await asyncio.sleep(0.03)
        listener.receive(rtp(number + 1))
    heard.clear()
    listener.receive(rtp(62))
    await until(lambda: sum(heard) == 3 * 960, 2.0)
    stats = listener.stats()
    assert stats is not None
    assert stats["packets"] == 61
    assert stats["lost"] >= 2
    listener.close()
    listener.close()
    listener.receive(rtp(63))
    assert listener.stats()["packets"] == 61  # type: ignore[index]


async def test_before_the_first_packet_there_are_no_figures_and_no_timer() -> None:
    listener = Listener(lambda _sound: None, time.monotonic, "test")
    assert listener.stats() is None
    listener.close()


async def test_sound_that_is_refused_is_logged_once_and_a_closed_session_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = [Overloaded("full"), Overloaded("full"), SessionClosed("over")]

    def hear(_sound: I16) -> None:
        raise errors.pop(0)

    listener = Listener(hear, time.monotonic, "s1")
    for number in range(6):
        listener.receive(rtp(number))
    assert errors == []
    assert [record.message for record in caplog.records] == [
        "session s1: sound of the microphone dropped: full"
    ]
