"""Runs a session's jobs with an engine for one actor: displacements → landmark image → crop → picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mytalk.actors.actor import Actor
from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import CROP, Poses, frame_to_crop, from_canonical
from mytalk.landmarks.warp import fine_windows, reference_flows
from mytalk.render.compose import Patch, crop, face_outline, lowest, overlay, paste_box, patch
from mytalk.render.prepared import PreparedCache
from mytalk.types import (
    F32,
    U8,
    ActorView,
    FrameSpec,
    Job,
    JobResult,
    LipReferences,
    MotionJob,
    MotionState,
    PictureJob,
    PictureResult,
)
from mytalk.video.planar import planar, size_of, whiten

ENCODE_BATCH = 8  # clip frames encoded at a time when nothing else needs the device
LATENTS = "latents"  # kind of cached array; idle faces also depend on the engine that decoded them
FLASH_PEAK = 0.7  # the test card flashes while the speech is louder than this (0..1)


def crop_landmarks(
    rest: F32, own: F32, displacement: F32 | None, *, pose: Poses, matrix: F32, layout: Layout
) -> F32:
    """Landmarks of one frame as they are to be shown, float32 [K, 2], crop pixels.

    rest: float32 [K, 3] canonical. own: float32 [K, 3], the frame's own canonical landmarks: what speech does
    not move (eyes, brows, nose) stays as filmed. displacement: float32 [Kc, 3] of the compact points from the
    rest face, None for that face itself. pose: of this frame (length 1). matrix: its crop, float32 [2, 3].
    """
    face = own.copy()
    face[layout.compact] = rest[layout.compact]
    if displacement is not None:
        face[layout.compact] += displacement
    return frame_to_crop(from_canonical(face[None], pose)[0, :, :2], matrix)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the decoder is told of B pictures, besides latents: see ``Engine.decode``."""

    images: F32
    references: U8
    flows: F32


@dataclass(frozen=True, slots=True)
class LipSource:
    """Lip references as the decoder looks things up in them; made once (``lip_source``).

    fine: uint8 [3, 3, 480, 528], of ``landmarks.warp.fine_windows``. points: float32 [3, K, 2], crop pixels.
    """

    fine: U8
    points: F32


def lip_source(references: LipReferences) -> LipSource:
    """What the decoder needs of lip references."""
    return LipSource(fine_windows(references.pictures), references.points)


def draw(points: Sequence[F32], lips: LipSource, layout: Layout) -> Drawn:
    """The decoder's inputs for crop landmarks float32 [K, 2] each."""
    images = [draw_landmarks(p, layout) for p in points]
    flows = [reference_flows(p, lips.points, layout) for p in points]
    return Drawn(_rows(images), _rows([lips.fine] * len(points)), _rows(flows))


def _rows(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Arrays as rows of one; a single one is a view, as megabytes would be copied for every picture."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def decode_landmarks(
    engine: Engine,
    points: Sequence[F32],
    latents: F32,
    lips: LipSource,
    layout: Layout,
    tuned: TunedDecoder | None = None,
) -> U8:
    """Pictures uint8 [B, 256, 256, 3] of crop landmarks [K, 2] each; latents: [B, Ca, h, w]."""
    drawn = draw(points, lips, layout)
    return engine.decode(drawn.images, latents, drawn.references, drawn.flows, tuned)


def fitting_decoder(engine: Engine, actor: Actor) -> tuple[TunedDecoder | None, str | None]:
    """The actor's own decoder, loaded, if it started from the engine's weights; else None, and why in a line.

    Raises ``EngineFailed`` for one that says it fits and does not.
    """
    tuned = actor.tuned
    if tuned is None:
        return None, None
    if tuned.appearance_id != engine.spec.appearance_id:
        return None, (
            f"actor {actor.card.name} was tuned for the appearance weights {tuned.appearance_id}, and these"
            f" are {engine.spec.appearance_id}: it is shown untuned; run `mytalk actor tune` again"
        )
    engine.load_decoder(tuned)
    return tuned, None


def check_fit(engine: Engine, layout: Layout) -> None:
    """Raise ``BadInput`` unless the engine's weights were trained on this landmark layout."""
    spec = engine.spec
    if (spec.compact, spec.upper) != (len(layout.compact), 2 * len(layout.upper)):
        raise BadInput(
            f"these weights move {spec.compact} landmarks and see {spec.upper} upper-face values;"
            f" the actor's layout {layout.name} has {len(layout.compact)} and {2 * len(layout.upper)}"
        )


class Renderer:
    """One actor with one engine, shared by all its sessions.

    Life: ``restore`` (slow, any thread, before anything else), ``prepare_next`` until it returns False, then
    ``execute`` and ``render_next_idle``; ``prepare`` does the first two in one go. ``prepare_next`` and
    ``render_next_idle`` are called by one thread at a time; what runs a job may be called by several, also
    beside ``render_next_idle``. Pictures handed out are never changed afterwards.
    """

    def __init__(
        self,
        engine: Engine,
        actor: Actor,
        *,
        clock: Callable[[], float],
        cache: PreparedCache | None = None,
        testcard: bool = False,
    ) -> None:
        """clock: seconds, for the stage timings alone. cache: where what is prepared is kept; None: nowhere.

        testcard: flash the top-left quarter of the picture white while the speech is loud.
        """
        check_fit(engine, actor.layout)
        self._engine, self._actor, self._clock, self._cache = engine, actor, clock, cache
        # tuned: the actor's own weights, if they fit; note: what people should know of them, or None
        self.tuned, self.note = fitting_decoder(engine, actor)
        self._testcard, self._lips = testcard, lip_source(actor.references)
        self._opening = np.float32(1 if actor.figures is None else actor.figures.opening)
        # RGB is needed until a frame is encoded; then the frame is kept in planes, as the encoder takes it.
        self._sources = deque(actor.frames)
        # The idle pictures replace the source's one by one: outside the mask they are equal, and inside
        # it every picture that is shown is rendered, so that one copy of the clip is enough.
        self._pictures: list[U8] = []
        self._places: dict[int, tuple[Patch, float] | None] = {}  # by clip frame; see ``_place``
        self._count = len(self._sources)
        actor.close()
        self._idle_done = 0
        self._idle_faces: U8 | None = None  # [N, h, w, 3], what was pasted so far; None when there is no need
        self._latents: npt.NDArray[Any] | None = None  # float16 [N, Ca, h, w]
        self._unsaved: set[str] = set()  # kinds of arrays that are not in the cache yet
        self._view: ActorView | None = None

    @property
    def view(self) -> ActorView:
        """What a session needs to know; raises ``BadInput`` before ``prepare``."""
        if self._view is None:
            raise BadInput("the renderer is not prepared")
        return self._view

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height of the pictures, pixels."""
        return self._actor.card.width, self._actor.card.height

    @property
    def progress(self) -> tuple[int, int]:
        """Clip frames that are prepared, and all of them."""
        return len(self._pictures), self._count

    @property
    def memory_bytes(self) -> int:
        """What pictures, latents, idle faces and the weights of pasting take."""
        # copies: other threads may be adding to them
        arrays = [*self._sources.copy(), *self._pictures, self._latents, self._idle_faces]
        places = [place[0] for place in self._places.copy().values() if place is not None]
        return sum(each.nbytes for each in [*arrays, *places] if each is not None)

    def initial_state(self) -> MotionState:
        """Motion memory of a new session."""
        return self._engine.initial_state()

    @property
    def _idle_kind(self) -> str:
        own = "" if self.tuned is None else f"-{self.tuned.digest}"
        return f"idle-{self._engine.name}{own}"

    def _cached(self, kind: str, dtype: type) -> npt.NDArray[Any] | None:
        if self._cache is None:
            return None
        found = self._cache.load(self._engine.spec.weights_id, self._actor.fingerprint, kind)
        usable = found is not None and found.ndim == 4 and len(found) == self._count
        return found if usable and found is not None and found.dtype == dtype else None

    def restore(self) -> None:
        """Take what the cache has: latents, and with them the idle faces, which are pasted in here."""
        latents = self._cached(LATENTS, np.float16)
        if latents is None:
            return
        self._latents = latents
        self._keep_planes(self._count)
        rows, columns = paste_box()
        faces = self._cached(self._idle_kind, np.uint8)
        if faces is None or faces.shape[1:] != (rows.stop - rows.start, columns.stop - columns.start, 3):
            return
        face = np.zeros((CROP, CROP, 3), np.uint8)
        for index, part in enumerate(faces):
            face[rows, columns] = part
            self._pictures[index] = self._pasted(FrameSpec(index, None), face)
        self._idle_done = len(faces)

    def _keep_planes(self, count: int) -> None:
        """Of so many frames, the next ones, RGB is not needed any more."""
        for _ in range(count):
            self._pictures.append(planar(self._sources[0]))
            self._sources.popleft()

    def prepare_next(self, frames: int = ENCODE_BATCH) -> bool:
        """Encode the appearance of at most ``frames`` more clip frames; False when all are done."""
        actor, encoded, count = self._actor, len(self._pictures), self._count
        if self._view is None:
            motion = actor.motion
            identity = self._engine.identity(np.ascontiguousarray(motion.rest[:, :2]))
            self._view = ActorView(actor.card.name, motion.order, actor.upper, identity)
        batch = range(encoded, min(encoded + frames, count))
        if batch:
            faces = np.stack([crop(self._sources[i - encoded], actor.matrices[i]) for i in batch])
            latents = self._engine.encode_appearance(actor.references.pictures, faces).astype(np.float16)
            if self._latents is None:
                self._latents = np.empty((count, *latents.shape[1:]), np.float16)
                self._unsaved.add(LATENTS)
            self._latents[batch.start : batch.stop] = latents
            self._keep_planes(len(batch))
        return batch.stop < count

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Encode the appearance of every clip frame, or take it from the cache; keep it there.

        progress: called with (frames done, frames in all).
        """
        self.restore()
        more = True
        while more:
            before = len(self._pictures)
            more = self.prepare_next()
            if progress is not None and len(self._pictures) > before:
                progress(*self.progress)
        self.keep()

    def keep(self) -> None:
        """Write what is complete and not on disk yet (slow; any thread, one at a time)."""
        if self._cache is None:
            return
        done = {
            LATENTS: (self._latents, len(self._pictures)),
            self._idle_kind: (self._idle_faces, self._idle_done),
        }
        for kind, (array, count) in done.items():
            if kind in self._unsaved and array is not None and count == self._count:
                self._cache.keep(self._engine.spec.weights_id, self._actor.fingerprint, kind, array)
                self._unsaved.discard(kind)
        if self._idle_kind not in self._unsaved and self._idle_done == self._count:
            self._idle_faces = None

    def execute(self, job: Job) -> JobResult:
        """Run one job; any thread. Raises what the engine raises, and ``BadInput`` before ``prepare``."""
        if isinstance(job, MotionJob):
            begin = self._clock()
            result = self._engine.motion([job])[0]
            return replace(result, stages_s={"motion": self._clock() - begin})
        return self.render(job)

    def render(self, job: PictureJob) -> PictureResult:
        """Landmarks → pictures for some frames."""
        if not job.frames:
            return PictureResult(())
        times = [self._clock()]
        drawn, latents = self.draw(job.frames)
        times.append(self._clock())
        faces = self._decode(drawn, latents)
        times.append(self._clock())
        pictures = self.finish(job.frames, faces)
        times.append(self._clock())
        took = zip(("draw", "decode", "paste"), times, times[1:], strict=False)
        return PictureResult(pictures, {stage: end - begin for stage, begin, end in took})

    def draw(self, frames: Sequence[FrameSpec]) -> tuple[Drawn, npt.NDArray[Any]]:
        """What the decoder is told of some frames, latents included; any thread."""
        if self._latents is None or len(self._pictures) < self._count:
            raise BadInput("the renderer is not prepared")
        return self._draw(frames), _rows([self._latents[spec.clip_index] for spec in frames])

    def finish(self, frames: Sequence[FrameSpec], faces: U8) -> tuple[U8, ...]:
        """Decoded crops uint8 [B, 256, 256, 3] of some frames, pasted into planar pictures; any thread."""
        return tuple(self._finish(spec, face) for spec, face in zip(frames, faces, strict=True))

    def _draw(self, frames: Sequence[FrameSpec]) -> Drawn:
        return draw([self._shown(spec) for spec in frames], self._lips, self._actor.layout)

    def _shown(self, spec: FrameSpec) -> F32:
        """Landmarks of a frame as they are to be shown, float32 [K, 2], crop pixels."""
        actor, motion, index = self._actor, self._actor.motion, spec.clip_index
        return crop_landmarks(
            motion.rest,
            motion.canonical[index],
            None if spec.displacement is None else self._opening * spec.displacement,
            pose=motion.poses.select(slice(index, index + 1)),
            matrix=actor.matrices[index],
            layout=actor.layout,
        )

    def _posed(self, index: int, face: F32) -> F32:
        """Landmarks float32 [n, 3] posed as in a clip frame: float32 [n, 2], crop pixels."""
        pose = self._actor.motion.poses.select(slice(index, index + 1))
        return frame_to_crop(from_canonical(face[None], pose)[0, :, :2], self._actor.matrices[index])

    def _decode(self, drawn: Drawn, latents: F32) -> U8:
        return self._engine.decode(drawn.images, latents, drawn.references, drawn.flows, self.tuned)

    def _place(self, index: int) -> tuple[Patch, float] | None:
        """Where a clip frame's rendered crop goes, and how far down the filmed face reaches, crop pixels."""
        if index not in self._places:
            seen = self._posed(index, self._actor.motion.canonical[index])
            made = patch(size_of(self._pictures[index]), self._actor.matrices[index], face_outline(seen))
            self._places[index] = None if made is None else (made, lowest(seen))
        return self._places[index]

    def _pasted(self, spec: FrameSpec, face: U8) -> U8:
        """A clip frame with a rendered crop on it."""
        index, found = spec.clip_index, self._place(spec.clip_index)
        if found is None:
            return self._pictures[index].copy()
        place, filmed = found
        lower = self._actor.motion.rest[self._actor.layout.compact]
        if spec.displacement is not None:
            lower = lower + self._opening * spec.displacement
        drop_px = lowest(self._posed(index, lower)) - filmed
        return overlay(self._pictures[index], face, place, drop_px)

    def _finish(self, spec: FrameSpec, face: U8) -> U8:
        picture = self._pasted(spec, face)
        if self._testcard and spec.audio_peak > FLASH_PEAK:
            whiten(picture)
        return picture

    def idle_picture(self, clip_index: int) -> U8:
        """What silence shows at a clip frame, planar; the source's own until it is rendered."""
        return self._pictures[clip_index]

    def render_next_idle(self) -> bool:
        """Render one more idle picture; False when all are done."""
        index, count = self._idle_done, self._count
        if index >= len(self._pictures) or self._latents is None:
            return False
        face = self._decode(self._draw([FrameSpec(index, None)]), self._latents[index : index + 1])[0]
        part = face[paste_box()]
        if self._cache is not None:
            if self._idle_faces is None:
                self._idle_faces = np.empty((count, *part.shape), np.uint8)
                self._unsaved.add(self._idle_kind)
            self._idle_faces[index] = part
        self._pictures[index] = self._pasted(FrameSpec(index, None), face)
        self._idle_done += 1
        return True
