"""Actors are loaded once, shared, and let go when others need the memory."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from mytalk.errors import BadInput, EngineFailed, MyTalkError
from server.actors import ActorPool, FolderCast
from server.worker import Worker
from tests.server_fakes import FakeCast
from tests.small_actor import fitting_engine, write_small_actor


class BigCast(FakeCast):
    """Four actors; those in ``broken`` cannot be read."""

    broken: tuple[str, ...] = ()

    def actors(self) -> list[tuple[str, str]]:
        return [(name, name.title()) for name in ("ada", "bob", "cy", "di")]

    def read(self, name: str):  # type: ignore[no-untyped-def]
        if name in self.broken:
            raise EngineFailed("broken")
        return super().read(name)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker(time.monotonic)
    worker.start()
    yield worker
    await worker.close()


async def test_an_actor_is_loaded_once_for_all_who_ask(worker: Worker) -> None:
    cast = BigCast(read_s=0.05)
    pool = ActorPool(cast, worker, 2)
    got = await asyncio.gather(*(pool.take("bob") for _ in range(4)))
    assert cast.reads == ["bob"]
    assert all(renderer is got[0] for renderer in got)


async def test_the_longest_unused_actor_goes_and_comes_back(worker: Worker) -> None:
    cast = BigCast()
    pool = ActorPool(cast, worker, 2)
    for name in ("ada", "bob", "ada", "cy"):
        await pool.take(name)
        pool.give_back(name)
    assert cast.reads == ["ada", "bob", "cy"]
    await pool.take("ada")  # still here
    await pool.take("bob")  # had to go
    assert cast.reads == ["ada", "bob", "cy", "bob"]


async def test_used_actors_stay_even_beyond_the_capacity(worker: Worker) -> None:
    cast = BigCast()
    pool = ActorPool(cast, worker, 1)
    used = [await pool.take(name) for name in ("ada", "bob", "cy")]
    assert await pool.take("ada") is used[0]
    assert cast.reads == ["ada", "bob", "cy"]


async def test_preload_fills_the_memory_and_keeps_the_first(worker: Worker) -> None:
    cast = BigCast()
    pool = ActorPool(cast, worker, 3)
    await pool.preload("cy")
    assert cast.reads == ["cy", "ada", "bob"]


async def test_preload_goes_on_after_a_broken_actor(worker: Worker) -> None:
    cast = BigCast()
    cast.broken = ("ada",)
    pool = ActorPool(cast, worker, 3)
    await pool.preload("cy")
    assert cast.reads == ["cy", "bob"]


async def test_a_failed_load_can_be_tried_again(worker: Worker) -> None:
    cast = BigCast()
    cast.broken = ("bob",)
    pool = ActorPool(cast, worker, 2)
    with pytest.raises(EngineFailed):
        await pool.take("bob")
    cast.broken = ()
    await pool.take("bob")


async def test_a_file_error_becomes_one_of_ours(worker: Worker) -> None:
    class Gone(BigCast):
        def read(self, name: str):  # type: ignore[no-untyped-def]
            raise FileNotFoundError("clip.mp4")

    with pytest.raises(MyTalkError, match="actor ada: clip"):
        await ActorPool(Gone(), worker, 1).take("ada")


async def test_a_caller_that_leaves_does_not_take_the_load_away(worker: Worker) -> None:
    cast = BigCast(read_s=0.1)
    pool = ActorPool(cast, worker, 1)
    leaver, stayer = (asyncio.create_task(pool.take("ada")) for _ in range(2))
    await asyncio.sleep(0.02)
    leaver.cancel()
    await stayer
    assert cast.reads == ["ada"]


async def test_unknown_actors_are_named_with_the_known_ones(worker: Worker) -> None:
    with pytest.raises(BadInput, match="ada, bob, cy, di") as error:
        await ActorPool(BigCast(), worker, 1).take("eve")
    assert error.value.code == "unknown_actor"


def test_a_poster_is_a_small_picture_of_the_actor(tmp_path: Path) -> None:
    write_small_actor(tmp_path / "ada", name="ada")
    cast = FolderCast(fitting_engine(), [tmp_path], clock=time.monotonic, cache=None)
    picture = Image.open(io.BytesIO(cast.poster("ada")))
    assert picture.format == "JPEG"
    assert min(picture.size) <= 192
    assert cast.poster("testcard") == cast.poster("ada")
