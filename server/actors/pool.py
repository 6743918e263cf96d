"""Actors in memory: loaded once, prepared between the sessions' jobs, let go when memory is needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from mytalk.errors import BadInput, MyTalkError, Overloaded
from server.actors.cast import TESTCARD, Cast, SharedRenderer
from server.compute.worker import Worker
from server.metrics import Metrics
from server.rtc.idle_reel import IdleReel

logger = logging.getLogger(__name__)
PIECE_FRAMES = 1  # prepared at a time while sessions are open: some 15 ms on a CPU, which their slack covers
BATCH_FRAMES = 8  # prepared at a time while nobody talks
REPORT_EVERY_S = 5.0  # between two lines of the log while an actor is prepared
MB = 1_000_000


class ActorPreparing(Overloaded):
    """The actor is not ready yet: ask again. done, total: clip frames, 0 of 0 when unknown."""

    code = "actor_preparing"

    def __init__(self, name: str, done: int, total: int) -> None:
        share = f"{done} of {total} pictures" if total else "reading it from disk"
        super().__init__(f"actor {name} is being prepared ({share}); ask again in a second")
        self.done, self.total = done, total


class ActorsFull(Overloaded):
    """The memory for actors is taken by those that are talking."""

    code = "actor_memory_full"


@dataclass(eq=False)
class _Loaded:
    renderer: SharedRenderer
    idle: asyncio.Task[None]
    reel: IdleReel | None
    users: int = 0
    last_use: int = 0


class ActorPool:
    """At most ``capacity`` actors, in ``memory_bytes``, stay in memory; those that are in use always do."""

    def __init__(
        self,
        cast: Cast,
        worker: Worker,
        metrics: Metrics,
        *,
        capacity: int,
        memory_bytes: int,
        make_reel: Callable[[SharedRenderer], IdleReel] | None = None,
    ) -> None:
        """make_reel: for a prepared actor, its idle loop to be encoded; None: every viewer has its own."""
        self.cast = cast
        self._worker, self._metrics = worker, metrics
        self._make_reel = make_reel
        self._capacity, self._memory_bytes = capacity, memory_bytes
        self._loaded: dict[str, _Loaded] = {}
        self._deleted: list[_Loaded] = []  # still talking
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._reserved_bytes: dict[str, int] = {}  # of those being loaded
        self._preparing: dict[str, SharedRenderer] = {}
        self._uses = 0

    @property
    def names(self) -> list[str]:
        """Everybody who can speak."""
        return [name for name, _ in self.cast.actors()]

    def check(self, name: str) -> None:
        """Raise ``BadInput`` (code ``unknown_actor``) unless there is such an actor."""
        if name not in self.names:
            raise BadInput(f"no actor {name!r}; there are: {', '.join(self.names)}", "unknown_actor")

    def progress(self, name: str) -> tuple[int, int]:
        """Clip frames prepared and in all of an actor that is being loaded; (0, 0) when unknown."""
        renderer = self._preparing.get(name)
        return (0, 0) if renderer is None else renderer.progress

    def is_ready(self, name: str) -> bool:
        """Whether the actor is in memory, prepared."""
        return name in self._loaded

    async def take(self, name: str, patience_s: float | None = None) -> SharedRenderer:
        """The actor's renderer, loaded if need be; give it back with ``give_back``.

        patience_s: raise ``ActorPreparing`` when it is not there by then; the loading goes on. Raises
        ``ActorsFull`` when there is no memory for it, ``MyTalkError`` when it cannot be loaded.
        """
        while (loaded := self._loaded.get(name)) is None:
            self.check(name)
            task = self._loading.get(name)
            if task is None:
                task = asyncio.create_task(self._load(name), name=f"load {name}")
                task.add_done_callback(_look_at)
                self._loading[name] = task
            # wait, not await: one caller that leaves must not take the load away from the others
            await asyncio.wait({task}, timeout=patience_s)
            if not task.done():
                raise ActorPreparing(name, *self.progress(name))
            if task.cancelled():
                raise BadInput(f"actor {name!r} was deleted", "unknown_actor")
            task.result()
        self._uses += 1
        loaded.users += 1
        loaded.last_use = self._uses
        return loaded.renderer

    def reel_of(self, renderer: SharedRenderer) -> IdleReel | None:
        """The idle loop of an actor in memory as it is encoded for all its viewers."""
        return next((loaded.reel for loaded in self._loaded.values() if loaded.renderer is renderer), None)

    def give_back(self, renderer: SharedRenderer) -> None:
        """A session no longer uses the actor."""
        for loaded in [*self._loaded.values(), *self._deleted]:
            if loaded.renderer is renderer:
                loaded.users -= 1
        self._deleted = [loaded for loaded in self._deleted if loaded.users > 0]
        self._evict()
        self._count()

    def forget(self, name: str) -> None:
        """The actor was deleted: sessions that use it go on, and its name is free."""
        task = self._loading.get(name)
        if task is not None:
            self._stop_loading(name)
            task.cancel()
        loaded = self._loaded.pop(name, None)
        if loaded is not None:
            loaded.idle.cancel()
            if loaded.users > 0:
                self._deleted.append(loaded)
        self._count()

    async def close(self) -> None:
        """Stop loading; idempotent."""
        every = [*self._loading.values(), *(loaded.idle for loaded in self._loaded.values())]
        for task in every:
            task.cancel()
        await asyncio.gather(*every, return_exceptions=True)

    @property
    def preparing(self) -> list[str]:
        """Actors that are being loaded, or whose idle pictures are not all there."""
        idle = [name for name, loaded in self._loaded.items() if not loaded.idle.done()]
        return sorted({*self._loading, *idle})

    async def preload(self, first: str) -> None:
        """Load ``first``, which stays for good."""
        await self.take(first)

    async def preload_others(self, first: str) -> None:
        """Load as many others as are kept, between the sessions' jobs.

        A broken one is told in the log, and to who asks for it.
        """
        others = [name for name in self.names if name not in (first, TESTCARD)]
        for name in others[: self._capacity - 1]:
            try:
                if self._used_bytes + await self._need_bytes(name) > self._memory_bytes:
                    logger.info("actor %s is loaded when it is asked for: the memory is full", name)
                    continue
                self.give_back(await self.take(name))
            except MyTalkError as error:
                logger.warning("actor %s cannot be used: %s", name, error)

    async def _need_bytes(self, name: str) -> int:
        return await asyncio.to_thread(self.cast.memory_bytes, name)

    async def _load(self, name: str) -> None:
        try:
            self._make_room(name, await self._need_bytes(name))
            renderer = await asyncio.to_thread(self.cast.read, name)
            self._preparing[name] = renderer
            await self._prepare(name, renderer)
        except OSError as error:
            raise MyTalkError(f"actor {name}: {error}") from error
        finally:
            if self._loading.get(name) is asyncio.current_task():  # else deleted; the name may be another's
                self._stop_loading(name)
        reel = None if self._make_reel is None else self._make_reel(renderer)
        idle = asyncio.create_task(self._render_idle(renderer, reel), name=f"idle pictures of {name}")
        idle.add_done_callback(_look_at)
        self._uses += 1
        self._loaded[name] = _Loaded(renderer, idle, reel, last_use=self._uses)
        self._evict(keep=name)
        self._count()

    def _stop_loading(self, name: str) -> None:
        del self._loading[name]
        self._preparing.pop(name, None)
        self._reserved_bytes.pop(name, None)

    async def _prepare(self, name: str, renderer: SharedRenderer) -> None:
        loop = asyncio.get_running_loop()
        reported_s = loop.time()
        begin = renderer.progress[0]

        def piece() -> bool:
            nonlocal reported_s
            more = renderer.prepare_next(PIECE_FRAMES if self._worker.has_customers else BATCH_FRAMES)
            if loop.time() - reported_s > REPORT_EVERY_S:
                reported_s = loop.time()
                logger.info("preparing %s: %d of %d frames (once; kept for later)", name, *renderer.progress)
            return more

        await self._worker.in_pieces(piece)
        if renderer.progress[0] > begin:
            await asyncio.to_thread(renderer.keep)

    async def _render_idle(self, renderer: SharedRenderer, reel: IdleReel | None) -> None:
        await self._worker.in_pieces(renderer.render_next_idle, seldom=True)
        await asyncio.to_thread(renderer.keep)
        if reel is not None:
            await self._worker.in_pieces(reel.encode_next, seldom=True)

    @property
    def _used_bytes(self) -> int:
        every = [*self._loaded.values(), *self._deleted]
        reels = sum(loaded.reel.memory_bytes for loaded in every if loaded.reel is not None)
        return (
            reels + sum(loaded.renderer.memory_bytes for loaded in every) + sum(self._reserved_bytes.values())
        )

    def _make_room(self, name: str, need_bytes: int) -> None:
        """Reserve memory for an actor, others leaving for it; raises ``ActorsFull`` or ``MyTalkError``."""
        if need_bytes > self._memory_bytes:
            limit = self._memory_bytes // MB
            raise MyTalkError(f"actor {name} needs {need_bytes // MB} MB; all actors may take {limit} MB")
        self._evict(need_bytes=need_bytes)
        if self._used_bytes + need_bytes > self._memory_bytes:
            raise ActorsFull("the actors that are talking fill the memory for actors; try again later")
        self._reserved_bytes[name] = need_bytes

    def _evict(self, need_bytes: int = 0, keep: str | None = None) -> None:
        """Let go of unused actors, least recently used first, while there are too many or too large ones."""
        unused = [name for name, loaded in self._loaded.items() if loaded.users == 0 and name != keep]
        for name in sorted(unused, key=lambda name: self._loaded[name].last_use):
            fits = self._used_bytes + need_bytes <= self._memory_bytes
            if fits and len(self._loaded) <= self._capacity:
                return
            self._loaded.pop(name).idle.cancel()
            self._metrics.actors_evicted.inc()

    def _count(self) -> None:
        self._metrics.actors_loaded.set(len(self._loaded) + len(self._deleted))
        self._metrics.actor_memory.set(self._used_bytes)


def _look_at(task: asyncio.Task[None]) -> None:
    """Nobody may be waiting for a task any more when it fails: say so in the log."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        logger.warning("%s: %s", task.get_name(), error)
