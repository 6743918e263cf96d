"""Jobs of several sessions in one engine call: what an engine needs that is fast at many rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.engine import Engine
from mytalk.render.renderer import Drawn
from mytalk.types import U8, FrameSpec, Job, JobResult, MotionJob, PictureJob, PictureResult

STAGES = ("draw", "decode", "paste")


class Artist(Protocol):
    """What is needed of a ``Renderer``."""

    @property
    def tuned(self) -> TunedDecoder | None:
        """The actor's own weights."""
        ...

    def draw(self, frames: Sequence[FrameSpec]) -> tuple[Drawn, npt.NDArray[Any]]:
        """The decoder's inputs for some frames."""
        ...

    def finish(self, frames: Sequence[FrameSpec], faces: U8) -> tuple[U8, ...]:
        """Decoded crops, pasted into their pictures."""
        ...


class Spread(Protocol):
    """``map``, or the same over several threads: results in the order of the items."""

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any], /) -> Iterator[Any]:
        """Call ``function`` with every item."""
        ...


def rows_of(job: Job) -> int:
    """Rows that a job takes in an engine call."""
    return len(job.frames) if isinstance(job, PictureJob) else 1


def execute_together(
    engine: Engine,
    tasks: Sequence[tuple[Artist, Job]],
    clock: Callable[[], float],
    spread: Spread = map,
) -> list[JobResult]:
    """Run jobs of one kind, of any actors, in one engine call (pictures: one for each decoder of its own).

    clock: seconds, for the stage timings alone; a stage's time is shared out by rows. spread: how drawing and
    pasting, which need no engine, go over the frames. Raises what the engine raises: then no job is done.
    """
    motion = [job for _, job in tasks if isinstance(job, MotionJob)]
    pictures = [(artist, job) for artist, job in tasks if isinstance(job, PictureJob)]
    if motion and pictures:
        raise ValueError("motion and picture jobs do not share a call")
    if motion:
        begin = clock()
        results = engine.motion(motion)
        share_s = (clock() - begin) / len(motion)
        return [replace(result, stages_s={"motion": share_s}) for result in results]
    return list(_pictures(engine, pictures, clock, spread))


def _decoded(
    engine: Engine,
    weights: Sequence[TunedDecoder | None],
    drawn: Sequence[tuple[Drawn, npt.NDArray[Any]]],
) -> list[U8]:
    """A crop uint8 [256, 256, 3] for every row; rows share a call only with those of the same weights."""
    faces: dict[int, U8] = {}
    for tuned in dict.fromkeys(weights):
        same = [row for row, own in enumerate(weights) if own is tuned]
        made = engine.decode(
            np.concatenate([drawn[row][0].images for row in same]),
            np.concatenate([drawn[row][1] for row in same]),
            np.concatenate([drawn[row][0].references for row in same]),
            np.concatenate([drawn[row][0].flows for row in same]),
            tuned,
        )
        faces |= zip(same, made, strict=True)
    return [faces[row] for row in range(len(weights))]


def _pictures(
    engine: Engine, tasks: Sequence[tuple[Artist, PictureJob]], clock: Callable[[], float], spread: Spread
) -> Iterator[PictureResult]:
    rows = [(artist, spec) for artist, job in tasks for spec in job.frames]
    if not rows:
        yield from (PictureResult(()) for _ in tasks)
        return
    times = [clock()]
    drawn = list(spread(lambda row: row[0].draw([row[1]]), rows))
    times.append(clock())
    faces = _decoded(engine, [artist.tuned for artist, _ in rows], drawn)
    times.append(clock())
    numbered = list(zip(rows, faces, strict=True))
    finished = list(spread(lambda each: each[0][0].finish([each[0][1]], each[1][None])[0], numbered))
    times.append(clock())
    took = dict(zip(STAGES, (end - begin for begin, end in pairwise(times)), strict=True))
    place = 0
    for _, job in tasks:
        count = len(job.frames)
        share_s = {stage: seconds * count / len(rows) for stage, seconds in took.items()}
        yield PictureResult(tuple(finished[place : place + count]), share_s)
        place += count
