"""Who can speak: actor packages in folders, found by name, read from disk, added and removed at run time."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
from PIL import Image

from mytalk.actors.actor import CLIP, ActorInfo, list_actors, load_actor, read_card, read_fingerprint
from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.engine import Engine, EngineSpec
from mytalk.errors import BadInput
from mytalk.render.prepared import PreparedCache
from mytalk.render.renderer import Drawn, Renderer
from mytalk.render.together import Spread, execute_together
from mytalk.types import U8, ActorView, FrameSpec, Job, JobResult, MotionState
from mytalk.video.media import read_pictures

logger = logging.getLogger(__name__)
TESTCARD = "testcard"
POSTER_PX = 192


class SharedRenderer(Protocol):
    """What the server needs of ``mytalk.render.renderer.Renderer``."""

    @property
    def tuned(self) -> TunedDecoder | None:
        """The actor's own weights."""
        ...

    @property
    def view(self) -> ActorView:
        """What a session needs to know of the actor; there once it is prepared."""
        ...

    @property
    def progress(self) -> tuple[int, int]:
        """Clip frames that are prepared, and all of them."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What it takes now."""
        ...

    def prepare_next(self, frames: int) -> bool:
        """Prepare at most ``frames`` more clip frames, on the device thread; False when all are done."""
        ...

    def keep(self) -> None:
        """Write what was prepared to disk, for the next start; slow, any thread."""
        ...

    def initial_state(self) -> MotionState:
        """Motion memory of a new session."""
        ...

    def execute(self, job: Job) -> JobResult:
        """Run one job; any thread, several at a time."""
        ...

    def draw(self, frames: Sequence[FrameSpec]) -> tuple[Drawn, npt.NDArray[Any]]:
        """The decoder's inputs for some frames; any thread."""
        ...

    def finish(self, frames: Sequence[FrameSpec], faces: U8) -> tuple[U8, ...]:
        """Decoded crops, pasted into their pictures; any thread."""
        ...

    def idle_picture(self, clip_index: int) -> U8:
        """What silence shows, planar (``mytalk.video.planar``); any thread."""
        ...

    def render_next_idle(self) -> bool:
        """Render one more idle picture, on the device thread; False when all are done."""
        ...


class Cast(Protocol):
    """Where renderers come from. ``actors``, ``is_own``, ``add`` and ``remove`` belong to the event loop."""

    engine_name: str
    spec: EngineSpec
    batch: int  # most rows of an engine call that are cheaper together

    def execute_together(
        self, tasks: Sequence[tuple[SharedRenderer, Job]], spread: Spread
    ) -> list[JobResult]:
        """Run jobs of one kind in one engine call; any thread. See ``mytalk.render.together``."""
        ...

    def actors(self) -> Sequence[tuple[str, str]]:
        """(name, title) of everybody who can speak."""
        ...

    def is_own(self, name: str) -> bool:
        """Whether the actor was uploaded here, and may be deleted."""
        ...

    def poster(self, name: str) -> bytes:
        """A small JPEG of the actor (slow the first time; any thread)."""
        ...

    def memory_bytes(self, name: str) -> int:
        """What the actor's pictures will take in memory (any thread)."""
        ...

    def read(self, name: str) -> SharedRenderer:
        """Read an actor from disk, with what the cache has of it; yet to be prepared (slow; any thread)."""
        ...

    def add(self, folder: Path) -> None:
        """A package was uploaded."""
        ...

    def remove(self, name: str) -> Path:
        """Forget an uploaded actor; returns its folder, which is left where it is."""
        ...

    def forget(self, folder: Path) -> None:
        """Remove from disk what was computed of a package that is being deleted (any thread)."""
        ...


class FolderCast:
    """Actor packages in folders, played with one engine. The test card is an actor that flashes."""

    def __init__(
        self,
        engine: Engine,
        folders: Sequence[Path],
        *,
        clock: Callable[[], float],
        cache: PreparedCache | None,
        uploads: Path | None = None,
    ) -> None:
        """cache: for what is computed once, None to keep nothing. uploads: folder of uploaded actors."""
        self.engine_name, self.spec, self.batch = engine.name, engine.spec, engine.batch
        self._engine, self._clock, self._cache, self._uploads = engine, clock, cache, uploads
        self._posters: dict[str, bytes] = {}
        every = [*folders, *([] if uploads is None else [uploads])]
        found = list_actors(every, on_problem=lambda error: logger.warning("%s", error))
        if not found:
            raise BadInput(f"no actors in {', '.join(str(folder) for folder in folders)}", "no_actors")
        self._infos: dict[str, ActorInfo] = {info.name: info for info in found}

    def actors(self) -> list[tuple[str, str]]:
        """(name, title), sorted by name, the test card last."""
        found = sorted((info.name, info.title) for info in self._infos.values())
        return [*found, (TESTCARD, "Test card: flashes while the sound is loud")]

    def execute_together(
        self, tasks: Sequence[tuple[SharedRenderer, Job]], spread: Spread
    ) -> list[JobResult]:
        """Run jobs of one kind, of any of its actors, in one engine call."""
        return execute_together(self._engine, tasks, self._clock, spread)

    def is_own(self, name: str) -> bool:
        """Whether the actor lies in the folder of uploads."""
        info = self._infos.get(name)
        own = self._uploads
        return info is not None and own is not None and info.folder.parent.resolve() == own.resolve()

    def add(self, folder: Path) -> None:
        """Take up a complete package."""
        card = read_card(folder)
        # a new dictionary: other threads may be reading the old one
        self._infos = {**self._infos, card.name: ActorInfo(card.name, card.title, folder)}

    def remove(self, name: str) -> Path:
        """Forget an actor."""
        folder = self._infos[name].folder
        self._infos = {key: info for key, info in self._infos.items() if key != name}
        self._posters.pop(name, None)
        return folder

    def forget(self, folder: Path) -> None:
        """Remove latents and idle pictures of a package."""
        if self._cache is not None:
            self._cache.forget(read_fingerprint(folder))

    def poster(self, name: str) -> bytes:
        """The first picture of the actor's clip, a JPEG of at least 192 pixels a side."""
        info = self._info(name)
        if name not in self._posters:
            picture = next(read_pictures(info.folder / CLIP, short_side_px=POSTER_PX)).rgb
            target = io.BytesIO()
            Image.fromarray(picture).save(target, "JPEG", quality=85)
            self._posters[name] = target.getvalue()
        return self._posters[name]

    def _info(self, name: str) -> ActorInfo:
        if name != TESTCARD:
            return self._infos[name]
        # rather one that cannot be deleted
        return min(self._infos.values(), key=lambda info: (self.is_own(info.name), info.name))

    def memory_bytes(self, name: str) -> int:
        """Bytes of the clip's pictures."""
        card = read_card(self._info(name).folder)
        return card.frames * card.width * card.height * 3

    def read(self, name: str) -> Renderer:
        """Read a package, checking every hash; the test card is the first actor with a flash."""
        actor = load_actor(self._info(name).folder)
        renderer = Renderer(
            self._engine, actor, clock=self._clock, cache=self._cache, testcard=name == TESTCARD
        )
        if renderer.note is not None:
            logger.warning("%s", renderer.note)
        renderer.restore()
        return renderer
