"""A network between us and the server that loses, delays and reorders what we send."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiortc.rtp import is_rtcp


@dataclass
class BadNetwork:
    """What happens to the RTP packets of one sender; ``drop`` tells by the count of packets so far.

    jitter_s: every packet is delayed by an even chance of 0..jitter_s, so that packets overtake each other.
    """

    drop: Callable[[int], bool] = lambda _number: False
    loss: float = 0.0
    jitter_s: float = 0.0
    seed: int = 1
    sent: int = 0
    dropped: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def attach(self, sender: Any) -> None:
        """Stand between a sender and its transport; call before the connection is made."""
        transport, rng = sender.transport, random.Random(self.seed)
        honest = transport._send_rtp
        ssrc = sender._ssrc

        async def send(data: bytes) -> None:
            if is_rtcp(data) or int.from_bytes(data[8:12], "big") != ssrc:
                await honest(data)
                return
            number, self.sent = self.sent, self.sent + 1
            if self.drop(number) or rng.random() < self.loss:
                self.dropped += 1
            elif self.jitter_s:
                task = asyncio.create_task(self._later(honest, data, rng.uniform(0, self.jitter_s)))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            else:
                await honest(data)

        transport._send_rtp = send

    async def _later(self, honest: Any, data: bytes, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        with contextlib.suppress(ConnectionError):
            await honest(data)

    async def close(self) -> None:
        """Drop what is still on its way."""
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
