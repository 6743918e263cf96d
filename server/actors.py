"""Actors by name: found in folders, loaded once, shared by their sessions, let go when memory is needed."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from mytalk.actor import CLIP, ActorInfo, list_actors, load_actor
from mytalk.engines.engine import Engine, EngineSpec
from mytalk.errors import BadInput, MyTalkError
from mytalk.media import read_pictures
from mytalk.renderer import Renderer
from mytalk.types import U8, ActorView, Job, JobResult, MotionState
from server.worker import Worker

logger = logging.getLogger(__name__)
TESTCARD = "testcard"
PROGRESS_FRAMES = 48
POSTER_PX = 192


class SharedRenderer(Protocol):
    """What the server needs of ``mytalk.renderer.Renderer``."""

    view: ActorView
    durations_s: dict[str, float]

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height of the pictures, pixels."""
        ...

    def initial_state(self) -> MotionState:
        """Motion memory of a new session."""
        ...

    def execute(self, job: Job) -> JobResult:
        """Run one job, on the device thread."""
        ...

    def idle_picture(self, clip_index: int) -> U8:
        """What silence shows: uint8 RGB [H, W, 3]; any thread."""
        ...

    def render_next_idle(self) -> bool:
        """Render one more idle picture, on the device thread; False when all are done."""
        ...


class Cast(Protocol):
    """Where renderers come from; ``load`` is split so that only ``prepare`` occupies the device."""

    engine_name: str
    spec: EngineSpec

    def actors(self) -> Sequence[tuple[str, str]]:
        """(name, title) of everybody who can speak."""
        ...

    def poster(self, name: str) -> bytes:
        """A small JPEG of the actor (slow the first time; any thread)."""
        ...

    def read(self, name: str) -> Callable[[], SharedRenderer]:
        """Read an actor from disk (slow; any thread) and return what prepares it (device thread)."""
        ...

    def cancel(self) -> None:
        """Make a running ``prepare`` fail soon: the server stops. Any thread."""
        ...


class FolderCast:
    """Actor packages in folders, played with one engine. The test card is an actor that flashes."""

    def __init__(
        self, engine: Engine, folders: Sequence[Path], *, clock: Callable[[], float], cache: Path | None
    ) -> None:
        """cache: folder for appearance latents, None to keep none."""
        self.engine_name, self.spec = engine.name, engine.spec
        self._engine, self._clock, self._cache = engine, clock, cache
        self._cancelled = threading.Event()
        self._posters: dict[str, bytes] = {}
        self._infos: dict[str, ActorInfo] = {
            info.name: info
            for info in list_actors(folders, on_problem=lambda error: logger.warning("%s", error))
        }
        if not self._infos:
            raise BadInput(f"no actors in {', '.join(str(folder) for folder in folders)}", "no_actors")

    def actors(self) -> list[tuple[str, str]]:
        """(name, title), sorted by name, the test card last."""
        found = [(info.name, info.title) for info in self._infos.values()]
        return [*found, (TESTCARD, "Test card: flashes while the sound is loud")]

    def poster(self, name: str) -> bytes:
        """The first picture of the actor's clip, a JPEG of at least 192 pixels a side."""
        if name not in self._posters:
            picture = next(read_pictures(self._info(name).folder / CLIP, short_side_px=POSTER_PX)).rgb
            target = io.BytesIO()
            Image.fromarray(picture).save(target, "JPEG", quality=85)
            self._posters[name] = target.getvalue()
        return self._posters[name]

    def _info(self, name: str) -> ActorInfo:
        return next(iter(self._infos.values())) if name == TESTCARD else self._infos[name]

    def read(self, name: str) -> Callable[[], SharedRenderer]:
        """Read a package; the test card is the first actor with a flash."""
        actor = load_actor(self._info(name).folder)
        len(actor.frames)  # decode the clip here, not on the device thread

        def progress(done: int, frames: int) -> None:
            if self._cancelled.is_set():
                raise MyTalkError("the server is stopping")
            if done == frames or done % PROGRESS_FRAMES == 0:
                logger.info(
                    "preparing %s: %d of %d frames (once; kept for the next start)", name, done, frames
                )

        def prepare() -> SharedRenderer:
            renderer = Renderer(
                self._engine, actor, clock=self._clock, cache=self._cache, testcard=name == TESTCARD
            )
            renderer.prepare(progress)
            return renderer

        return prepare

    def cancel(self) -> None:
        """Make a running ``prepare`` fail at its next batch."""
        self._cancelled.set()


@dataclass
class _Loaded:
    renderer: SharedRenderer
    users: int = 0
    last_use: int = 0


class ActorPool:
    """At most ``capacity`` idle actors stay in memory; those that sessions use always do."""

    def __init__(self, cast: Cast, worker: Worker, capacity: int) -> None:
        self.cast = cast
        self._worker = worker
        self._capacity = capacity
        self._loaded: dict[str, _Loaded] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._uses = 0

    @property
    def names(self) -> list[str]:
        """Everybody who can speak."""
        return [name for name, _ in self.cast.actors()]

    def check(self, name: str) -> None:
        """Raise ``BadInput`` (code ``unknown_actor``) unless there is such an actor."""
        if name not in self.names:
            raise BadInput(f"no actor {name!r}; there are: {', '.join(self.names)}", "unknown_actor")

    async def take(self, name: str) -> SharedRenderer:
        """The actor's renderer, loaded if need be; give it back with ``give_back``."""
        self.check(name)
        while (loaded := self._loaded.get(name)) is None:
            task = self._loading.get(name)
            if task is None:
                task = asyncio.create_task(self._load(name), name=f"load {name}")
                self._loading[name] = task
            # shielded: one caller that leaves must not take the load away from the others
            await asyncio.shield(task)
        self._uses += 1
        loaded.users += 1
        loaded.last_use = self._uses
        return loaded.renderer

    def give_back(self, name: str) -> None:
        """A session no longer uses the actor."""
        self._loaded[name].users -= 1
        self._evict()

    async def close(self) -> None:
        """Stop loading; idempotent."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)

    async def preload(self, first: str) -> None:
        """Load ``first`` and as many others as are kept; ``first`` stays for good.

        Preparing an actor for the first time occupies the device for seconds, so it is done before anybody
        talks. A broken one among the others is told in the log, and to who asks for it.
        """
        await self.take(first)
        others = [name for name in self.names if name not in (first, TESTCARD)]
        for name in others[: self._capacity - 1]:
            try:
                await self.take(name)
            except MyTalkError as error:
                logger.warning("actor %s cannot be used: %s", name, error)
            else:
                self.give_back(name)

    async def _load(self, name: str) -> None:
        try:
            prepare = await asyncio.to_thread(self.cast.read, name)
            renderer = await self._worker.call(prepare)
        except OSError as error:
            raise MyTalkError(f"actor {name}: {error}") from error
        finally:
            del self._loading[name]
        self._loaded[name] = _Loaded(renderer, last_use=self._uses)
        self._worker.add_idle_work(renderer.render_next_idle)
        self._evict(keep=name)

    def _evict(self, keep: str | None = None) -> None:
        """Let go of unused actors, least recently used first, while there are too many."""
        unused = [name for name, loaded in self._loaded.items() if loaded.users == 0 and name != keep]
        for name in sorted(unused, key=lambda name: self._loaded[name].last_use):
            if len(self._loaded) <= self._capacity:
                return
            self._worker.drop_idle_work(self._loaded.pop(name).renderer.render_next_idle)
