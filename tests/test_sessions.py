"""Admission: places are counted from before the first await, and always given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from mytalk.errors import BadInput, EngineFailed, Overloaded
from server.actors.pool import ActorPool
from server.compute.worker import Worker
from server.config import ServerConfig
from server.metrics import Metrics
from server.sessions import NoSuchSession, Sessions, TooManySessions
from server.signalling import Offer
from tests.server_fakes import FakeCast, FakeRenderer
from tests.test_peer import an_offer


class Studio:
    """Sessions with everything around them; counts who uses an actor."""

    def __init__(self, cast: FakeCast, max_sessions: int = 2) -> None:
        self.cast, self.metrics = cast, Metrics()
        self.worker = Worker(time.monotonic)
        self.pool = ActorPool(cast, self.worker, self.metrics, capacity=1, memory_bytes=1500)
        config = ServerConfig(max_sessions=max_sessions)
        self.sessions = Sessions(config, self.pool, self.worker, self.metrics, time.monotonic)

    async def offer(self, hop: int | None = None) -> Offer:
        return Offer(await an_offer(), None, hop, None)

    async def open(self, actor: str = "ada", hop: int | None = None) -> str:
        return (await self.sessions.open(await self.offer(hop), actor))[0]


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    made = Studio(FakeCast())
    made.worker.start()
    yield made
    await made.sessions.shut_down(3.0)
    await made.pool.close()
    await made.worker.close()


async def test_open_look_up_close(studio: Studio) -> None:
    session_id, sdp = await studio.sessions.open(await studio.offer(), "ada")
    assert sdp.startswith("v=0")
    assert studio.sessions.conversation(session_id).id == session_id
    assert len(studio.sessions) == 1
    await studio.sessions.close(session_id)
    assert len(studio.sessions) == 0
    for call in (lambda: studio.sessions.close(session_id), lambda: studio.sessions.close("never was")):
        with pytest.raises(NoSuchSession):
            await call()
    with pytest.raises(NoSuchSession):
        studio.sessions.conversation(session_id)


async def test_places_are_limited_and_come_back(studio: Studio) -> None:
    studio.cast.read_s = 0.2
    opened = await asyncio.gather(*(studio.open() for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, TooManySessions) for result in opened) == 2
    first = next(result for result in opened if isinstance(result, str))
    await studio.sessions.close(first)
    await studio.open()


async def test_what_was_built_of_a_failure_is_taken_down(studio: Studio) -> None:
    with pytest.raises(BadInput):
        await studio.open(hop=10_000)
    with pytest.raises(BadInput):
        await studio.sessions.open(Offer("nonsense", None, None, None), "ada")
    with pytest.raises(BadInput, match="no actor"):
        await studio.open("nobody")
    assert len(studio.sessions) == 0
    await studio.open("bob")  # only fits when ada, whom both failures took, was given back


async def test_a_broken_actor_gives_its_place_back(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> FakeRenderer:
        raise EngineFailed("broken")

    monkeypatch.setattr(studio.cast, "read", broken)
    with pytest.raises(EngineFailed):
        await studio.open()
    assert len(studio.sessions) == 0


async def test_a_session_that_takes_too_long_to_build_is_given_up(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.sessions.ANSWER_DEADLINE_S", 0.05)
    studio.cast.read_s = 0.3
    with pytest.raises(Overloaded, match="in time"):
        await studio.open()
    assert len(studio.sessions) == 0


async def test_closing_soon_gives_the_actor_back(studio: Studio) -> None:
    session_id = await studio.open("ada")
    studio.sessions.close_soon(session_id, "the test says so")
    studio.sessions.close_soon(session_id, "again")
    async with asyncio.timeout(5):
        while len(studio.sessions) or "mytalk_sessions 0.0" not in studio.metrics.text().decode():
            await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        while True:
            try:
                await studio.open("bob")
                break
            except Overloaded:  # ada is on her way out
                await asyncio.sleep(0.05)


async def test_shutting_down_closes_all_and_refuses(studio: Studio) -> None:
    for _ in range(2):
        await studio.open()
    await studio.sessions.shut_down(5.0)
    assert len(studio.sessions) == 0
    with pytest.raises(Overloaded, match="shutting down"):
        await studio.open()
    await studio.sessions.shut_down(5.0)
