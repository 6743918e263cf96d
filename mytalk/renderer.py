"""Runs a session's jobs with an engine for one actor: displacements → landmark image → crop → picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from mytalk.actor import Actor
from mytalk.compose import crop, paste
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import Poses, frame_to_crop, from_canonical
from mytalk.types import (
    F32,
    U8,
    ActorView,
    FrameSpec,
    Job,
    JobResult,
    MotionJob,
    MotionState,
    PictureJob,
    PictureResult,
)

ENCODE_BATCH = 8  # clip frames encoded at a time when an actor is prepared
FLASH_PEAK = 0.7  # the test card flashes while the speech is louder than this (0..1)


def landmark_image(
    rest: F32, own: F32, displacement: F32 | None, *, pose: Poses, matrix: F32, layout: Layout
) -> F32:
    """Landmark image of one frame, float32 [3, 256, 256].

    rest: float32 [K, 3] canonical. own: float32 [K, 3], the frame's own canonical landmarks: what speech does
    not move (eyes, brows, nose) stays as filmed. displacement: float32 [Kc, 3] of the compact points from the
    rest face, None for that face itself. pose: of this frame (length 1). matrix: its crop, float32 [2, 3].
    """
    face = own.copy()
    face[layout.compact] = rest[layout.compact]
    if displacement is not None:
        face[layout.compact] += displacement
    points = from_canonical(face[None], pose)[0, :, :2]
    return draw_landmarks(frame_to_crop(points, matrix), layout)


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

    ``prepare``, ``execute`` and ``render_next_idle`` run on one worker thread; ``idle_picture`` may be called
    from any thread, as it only takes a reference. Pictures handed out are never changed afterwards.
    """

    def __init__(
        self,
        engine: Engine,
        actor: Actor,
        *,
        clock: Callable[[], float],
        cache: Path | None = None,
        testcard: bool = False,
    ) -> None:
        """clock: seconds, for the stage timings alone. cache: folder for appearance latents; None: not kept.

        testcard: flash the top-left quarter of the picture white while the speech is loud.
        """
        check_fit(engine, actor.layout)
        self._engine, self._actor, self._clock, self._cache = engine, actor, clock, cache
        self._testcard = testcard
        self._pictures: list[U8] = list(actor.frames)
        # The idle pictures replace the source frames one by one: outside the mask they are equal, and inside
        # it every picture that is shown is rendered, so that one copy of the clip is enough.
        actor.close()
        self._idle_done = 0
        self._latents: F32 | None = None
        motion = actor.motion
        identity = engine.identity(np.ascontiguousarray(motion.rest[:, :2]))
        self.view = ActorView(actor.card.name, motion.order, actor.upper, identity)
        self.durations_s: dict[str, float] = {}  # last duration of each stage, seconds per call

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height of the pictures, pixels."""
        return self._actor.card.width, self._actor.card.height

    @property
    def ready(self) -> bool:
        """Whether ``prepare`` is done."""
        return self._latents is not None

    def initial_state(self) -> MotionState:
        """Motion memory of a new session."""
        return self._engine.initial_state()

    def _cache_file(self) -> Path | None:
        if self._cache is None:
            return None
        return self._cache / f"{self._engine.spec.weights_id[:16]}-{self._actor.fingerprint[:16]}.npy"

    def _cached_latents(self) -> F32 | None:
        path = self._cache_file()
        if path is None or not path.is_file():
            return None
        try:
            latents: F32 = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            return None  # a torn file is made anew
        usable = latents.ndim == 4 and len(latents) == len(self._pictures) and latents.dtype == np.float16
        return latents if usable else None

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Encode the appearance of every clip frame, or take it from the cache.

        progress: called with (frames done, frames in all). Does nothing the second time.
        """
        if self._latents is not None:
            return
        latents = self._cached_latents()
        if latents is None:
            latents = self._encode(progress)
            # A cache that cannot be written costs the next start some time, and nothing else.
            with suppress(OSError):
                self._keep(latents)
        self._latents = latents

    def _keep(self, latents: F32) -> None:
        path = self._cache_file()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                np.save(file, latents)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _encode(self, progress: Callable[[int, int], None] | None) -> F32:
        pieces, count = [], len(self._pictures)
        for start in range(0, count, ENCODE_BATCH):
            batch = range(start, min(start + ENCODE_BATCH, count))
            faces = np.stack([crop(self._pictures[i], self._actor.matrices[i]) for i in batch])
            pieces.append(self._engine.encode_appearance(self._actor.references, faces).astype(np.float16))
            if progress is not None:
                progress(batch.stop, count)
        return np.concatenate(pieces)

    def execute(self, job: Job) -> JobResult:
        """Run one job. Raises ``EngineFailed`` when the engine does, ``BadInput`` before ``prepare``."""
        if isinstance(job, MotionJob):
            begin = self._clock()
            result = self._engine.motion([job])[0]
            self.durations_s["motion"] = self._clock() - begin
            return result
        return self.render(job)

    def render(self, job: PictureJob) -> PictureResult:
        """Landmarks → pictures for some frames."""
        if self._latents is None:
            raise BadInput("the renderer is not prepared")
        if not job.frames:
            return PictureResult(())
        actor, motion = self._actor, self._actor.motion
        times = [self._clock()]
        index = np.array([spec.clip_index for spec in job.frames])
        images = np.stack(
            [
                landmark_image(
                    motion.rest,
                    motion.canonical[i],
                    spec.displacement,
                    pose=motion.poses.select(slice(i, i + 1)),
                    matrix=actor.matrices[i],
                    layout=actor.layout,
                )
                for i, spec in zip(index, job.frames, strict=True)
            ]
        )
        times.append(self._clock())
        rendered = self._engine.decode(images, self._latents[index])
        times.append(self._clock())
        pictures = tuple(self._finish(spec, face) for spec, face in zip(job.frames, rendered, strict=True))
        times.append(self._clock())
        for stage, begin, end in zip(("draw", "decode", "paste"), times, times[1:], strict=False):
            self.durations_s[stage] = end - begin
        return PictureResult(pictures)

    def _finish(self, spec: FrameSpec, face: U8) -> U8:
        picture = paste(self._pictures[spec.clip_index], face, self._actor.matrices[spec.clip_index])
        if self._testcard and spec.audio_peak > FLASH_PEAK:
            picture[: picture.shape[0] // 2, : picture.shape[1] // 2] = 255
        return picture

    def idle_picture(self, clip_index: int) -> U8:
        """What silence shows at a clip frame: uint8 RGB [H, W, 3]; the source's own until it is rendered."""
        return self._pictures[clip_index]

    def render_next_idle(self) -> bool:
        """Render one more idle picture; False when all are done."""
        if self._idle_done >= len(self._pictures):
            return False
        spec = FrameSpec(self._idle_done, None)
        self._pictures[self._idle_done] = self.render(PictureJob(0, (spec,))).pictures[0]
        self._idle_done += 1
        return True
