"""Runs an engine on made-up input: so that nobody waits for a first call, and to measure it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mytalk.engines.buckets import BUCKETS
from mytalk.engines.engine import Engine
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import CROP
from mytalk.landmarks.warp import fine_windows, flow_shape
from mytalk.motion import hop_noise, mel_context
from mytalk.types import U8, MotionJob, MotionResult

REFERENCES = 3  # lip references of an actor
HOP_FRAMES, LOOKAHEAD_FRAMES = 2, 1  # of a measured hop: what a session asks for by default


class Exercise:
    """Made-up work for an engine, of the shapes that sessions give it."""

    def __init__(self, engine: Engine, most: int = BUCKETS[-1]) -> None:
        """most: pictures of the largest batch. Raises ``EngineFailed`` when the engine does."""
        self._engine, self._most = engine, most
        random = np.random.default_rng(0)
        self._references = random.integers(0, 256, (REFERENCES, CROP, CROP, 3), dtype=np.uint8)
        latents = engine.encode_appearance(self._references, self._references[:1]).astype(np.float32)
        self._latents = np.repeat(latents, most, axis=0)
        self._drawn = np.repeat(random.random((1, 3, CROP, CROP), dtype=np.float32), most, axis=0)
        self._seen = np.repeat(fine_windows(self._references)[None], most, axis=0)
        self._flows = np.zeros((most, REFERENCES, 2, *flow_shape()), np.float32)
        spec = engine.spec
        self._identity = engine.identity(np.zeros((load_layout().points, 2), np.float32))
        self._job = MotionJob(
            generation=0,
            state=engine.initial_state(),
            log_mel=mel_context(np.zeros((0, 80), np.float32), 0, 0, spec),
            upper=np.zeros((spec.tokens, spec.upper), np.float32),
            identity=self._identity,
            noise=hop_noise(0, 0, 0, spec.tokens, spec.coefficients),
            position=0,
            hop=HOP_FRAMES,
            tokens=min(spec.tokens, HOP_FRAMES + LOOKAHEAD_FRAMES),
        )

    def motion(self, steps: int | None = None) -> MotionResult:
        """One hop of ``HOP_FRAMES`` frames. steps: of diffusion, None = the engine's default."""
        return self._engine.motion([replace(self._job, steps=steps)])[0]

    def decode(self, count: int) -> U8:
        """``count`` lip pictures in one call."""
        rows = slice(count)
        return self._engine.decode(
            self._drawn[rows], self._latents[rows], self._seen[rows], self._flows[rows]
        )

    def encode(self, count: int) -> None:
        """The appearance of ``count`` clip frames in one call."""
        faces = np.repeat(self._references[:1], count, axis=0)
        self._engine.encode_appearance(self._references, faces)


def warm_up(
    engine: Engine,
    pictures: Sequence[int],
    faces: Sequence[int] = (),
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Make every call that a server will make once; returns the seconds that it took.

    Runtimes compile, record or allocate when they first meet a shape, which takes up to a second.
    pictures: batch sizes of ``decode``. faces: batch sizes of ``encode_appearance``.
    """
    begin = clock()
    exercise = Exercise(engine, max(pictures, default=1))
    for steps in engine.spec.step_counts:  # a graph each; a busy server goes down to fewer steps
        exercise.motion(steps)
    for count in faces:
        exercise.encode(count)
    for count in pictures:
        exercise.decode(count)
    return clock() - begin
