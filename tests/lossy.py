"""A pair of real aiortc peers over loopback, with a bad network between them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aioice.ice
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection

from clients.headless.network import BadNetwork


@contextlib.asynccontextmanager
async def one_way(
    microphone: MediaStreamTrack, network: BadNetwork, prepare: Callable[[Any, RTCPeerConnection], None]
) -> AsyncIterator[None]:
    """Send a microphone to a second peer; ``prepare`` gets its receiver before anything starts."""
    found, aioice.ice.get_host_addresses = aioice.ice.get_host_addresses, lambda *_, **__: ["127.0.0.1"]
    here, there = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    try:
        sender = here.addTransceiver(microphone, direction="sendonly").sender
        listening = there.addTransceiver("audio", direction="recvonly")
        prepare(listening.receiver, there)
        await here.setLocalDescription(await here.createOffer())
        network.attach(sender)
        await there.setRemoteDescription(here.localDescription)
        await there.setLocalDescription(await there.createAnswer())
        await here.setRemoteDescription(there.localDescription)
        yield
    finally:
        await network.close()
        for peer in (here, there):
            await asyncio.wait_for(peer.close(), 5)
        aioice.ice.get_host_addresses = found


async def until(condition: Callable[[], bool], deadline_s: float = 15.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, "it never happened"
        await asyncio.sleep(0.01)
