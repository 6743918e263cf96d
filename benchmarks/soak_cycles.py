"""Real callers of every kind against a real server, one after the other: polite, rude, silent, gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from clients.headless.call import Call, CallOptions
from clients.headless.errors import ClientError, Refused
from clients.headless.sources import Microphone
from clients.headless.testcard import RATE, click_train

CALL_S = 45.0  # no call takes longer, whatever happens
PLACE_S = 30.0  # to wait for a free place: a caller who vanished keeps his for some seconds
SPEECH_S = 1.2


@dataclass
class Tally:
    """Calls that went as meant, by kind, and what went wrong with the others."""

    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


class Callers:
    """Makes calls to one server. Every kind of caller is a method; ``one`` draws one of them."""

    def __init__(self, url: str, actor: str | None, seed: int) -> None:
        self.tally = Tally()
        self._url = url
        self._options = CallOptions(url, actor)
        self._rng = random.Random(seed)
        self._speech = click_train(SPEECH_S, [0.1, 0.9], seed=seed)
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "speaks": self.speaks,
            "microphone": self.microphone,
            "interrupts": self.interrupts,
            "vanishes": self.vanishes,
            "garbage": self.garbage,
            "never connects": self.never_connects,
            "socket": self.socket,
        }

    async def one(self) -> None:
        """One call of some kind; what goes wrong is noted."""
        kind = self._rng.choice(list(self._kinds))
        try:
            await asyncio.wait_for(self._kinds[kind](), CALL_S)
            self.tally.done[kind] += 1
        except (ClientError, TimeoutError, aiohttp.ClientError, OSError) as error:
            self.tally.failed.append(f"{kind}: {type(error).__name__}: {error}")

    async def speaks(self) -> None:
        """Push an utterance, listen to its beginning, hang up."""
        async with self._call() as call:
            await call.first_picture()
            start_s = await call.push(self._speech)
            await call.message("speech_started", start_s, 15.0)
            await call.run(self._rng.uniform(0.1, 1.5))

    async def microphone(self) -> None:
        """Talk live for a moment and hang up in the middle of it."""
        async with self._call(Microphone(self._speech)) as call:
            await call.first_picture()
            await call.run(self._rng.uniform(0.3, 2.0))

    async def interrupts(self) -> None:
        """Push, interrupt, push again, interrupt again."""
        async with self._call() as call:
            await call.first_picture()
            for _ in range(2):
                start_s = await call.push(self._speech)
                await call.message("speech_started", start_s, 15.0)
                await call.run(self._rng.uniform(0.0, 0.4))
                call.send({"type": "interrupt"})
                await call.message("interrupted", start_s, 15.0)

    async def vanishes(self) -> None:
        """Be gone in the middle of a sentence: no goodbye on any layer, as after a power cut."""
        async with self._call(Microphone(self._speech)) as call:
            await call.first_picture()
            await call.push(self._speech)
            await call.run(self._rng.uniform(0.0, 0.8))
            cut_off(call)

    async def garbage(self) -> None:
        """Send what nobody should, in every place that takes something; then speak."""
        async with aiohttp.ClientSession() as http:
            for body in (b"{", b"\xff" * 999, b"[]", b'{"type":"offer","sdp":"v=0"}', b"9" * 400_000):
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.post(f"{self._url}/offer", data=body) as answer:
                        if answer.status < 400:
                            raise Refused(f"{body[:20]!r} was answered with {answer.status}")
        async with self._call() as call:
            await call.first_picture()
            rubbish: list[str | bytes] = [
                "{",
                "[]",
                "x" * 9_000,
                b"\1",
                b"\0" * 70_000,
                '{"type":"start","rate":1}',
            ]
            start_s = await call.push(self._speech[:480])
            for message in rubbish:
                call._channel.send(message)
            await call.message("error", start_s, 15.0)

    async def never_connects(self) -> None:
        """Make an offer, take the answer, and never come."""
        call = self._call()
        await call.__aenter__()
        cut_off(call)
        await call.close()

    async def socket(self) -> None:
        """Speak over a WebSocket and drop it in the middle of a sentence."""
        async with self._call() as call, aiohttp.ClientSession() as http:
            await call.first_picture()
            async with http.ws_connect(f"{self._url}/v1/sessions/{call.session_id}/speech") as socket:
                await socket.send_str(json.dumps({"type": "start", "rate": RATE}))
                for part in np.array_split(self._speech, 10):
                    await socket.send_bytes(part.astype("<i2").tobytes())
                await socket.receive(15.0)
                if socket._response.connection is not None and self._rng.random() < 0.5:
                    transport = socket._response.connection.transport
                    if transport is not None:
                        transport.abort()
            await call.run(self._rng.uniform(0.0, 0.5))

    def _call(self, microphone: Any = None) -> _Patient:
        return _Patient(self._options, microphone)


class _Patient(Call):
    """A call that waits for a place, since those who vanish keep theirs for some seconds."""

    async def _offer(self, body: dict[str, Any]) -> Any:
        async with asyncio.timeout(PLACE_S):
            while True:
                try:
                    return await super()._offer(body)
                except Refused as error:
                    if error.code not in ("too_many_sessions", "machine_busy", "overloaded"):
                        raise
                await asyncio.sleep(0.5)


def cut_off(call: Call) -> None:
    """Take a call's sockets away under it, and its right to say goodbye."""
    call.session_id = None
    for transceiver in call._peer.getTransceivers():
        ice = transceiver.receiver.transport.transport
        for protocol in list(ice._connection._protocols):
            protocol.transport.close()


async def many(callers: Callers, calls: int, together: int) -> None:
    """A number of calls, so many at a time."""
    left = iter(range(calls))

    async def line() -> None:
        for _ in left:
            await callers.one()

    await asyncio.gather(*(line() for _ in range(together)))
