"""Speech → landmark motion at 25 frames/s for a whole utterance, through a ``TalkSession`` in simulated
time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mytalk.clock import FPS, PLAYOUT_RATE, PLAYOUT_SAMPLES_PER_FRAME
from mytalk.config import SessionConfig
from mytalk.engines.engine import Engine, EngineSpec
from mytalk.errors import EngineFailed
from mytalk.session import TalkSession
from mytalk.types import F32, I16, ActorView, MotionJob, MotionResult, PictureJob, PictureResult

BUFFER_S = 4.0  # speech the session holds ahead of what it plays, simulated time
STUCK_SLOTS = 250  # slots without a new frame after which the session is given up


def dub_config(spec: EngineSpec) -> SessionConfig:
    """Session settings without a hurry: half of what the model can see at once is lookahead."""
    hop = max(1, spec.tokens // 2)
    return SessionConfig(
        hop_frames=hop, lookahead_frames=spec.tokens - hop, ahead_frames=max(12, 2 * hop), pushed_start_s=0.0
    )


class _SpeechRun:
    """One utterance through a ``TalkSession`` in simulated time: displacements by frame."""

    def __init__(self, engine: Engine, view: ActorView, config: SessionConfig, seed: int) -> None:
        self.played_frames = 0  # those that rest are never planned
        self._engine = engine
        self._now = 0.0
        self._session = TalkSession(
            view, engine.spec, engine.initial_state(), config, seed=seed, now=self._now
        )

    def positions(self, speech: Iterator[I16]) -> Iterator[tuple[int, F32]]:
        """(play position, displacement float32 [Kc, 3]) of every frame, as the session plans them."""
        session, held, ended, idle_slots = self._session, 0, False, 0
        try:
            while idle_slots < STUCK_SLOTS:
                while not ended and held < BUFFER_S * PLAYOUT_RATE:
                    block = next(speech, None)
                    if block is None:
                        ended = True
                        session.end_of_speech(self._now)
                    else:
                        session.receive_speech(block, PLAYOUT_RATE, now=self._now, live=False)
                        held += len(block)
                planned = list(self._work())
                yield from planned
                self._now = max(self._now, session.next_due())
                slices = session.slices_due(self._now)
                spoken = sum(s.speech_sample is not None for s in slices)
                held -= PLAYOUT_SAMPLES_PER_FRAME * spoken
                self.played_frames += spoken
                idle_slots = 0 if planned or spoken else idle_slots + 1
        finally:
            session.close()

    def _work(self) -> Iterator[tuple[int, F32]]:
        """Run every job there is now; simulated time stands still meanwhile, so nothing is ever late."""
        while (job := self._session.next_job()) is not None:
            result: MotionResult | PictureResult
            if isinstance(job, MotionJob):
                result = self._engine.motion([job])[0]
            else:
                result = _noted(job)
                for spec in job.frames:
                    if spec.displacement is not None:
                        yield spec.clip_index, spec.displacement
            self._session.complete(job, result, self._now)


def _noted(job: PictureJob) -> PictureResult:
    """A stand-in for pictures, which are made later, at the video's own rate."""
    return PictureResult(tuple(np.zeros((1, 1, 3), np.uint8) for _ in job.frames))


def speech_motion(
    speech: Iterator[I16], frames: int, upper: F32, engine: Engine, identity: F32, *, seed: int = 0
) -> Iterator[F32]:
    """Displacements float32 [Kc, 3] of the frames of an utterance at 25 frames/s, in order.

    speech: blocks of int16, 48 kHz mono. frames: how many are wanted. upper: float32 [frames, U], upper-face
    displacements of the picture shown at each of them. identity: float32 [E].
    """
    config = dub_config(engine.spec)
    # The session plans a tail, too, and looks ahead of it; the last picture stands in there.
    rows = np.minimum(np.arange(frames + config.tail_frames + 2 * engine.spec.tokens), frames - 1)
    view = ActorView("dub", np.arange(len(rows), dtype=np.int32), upper[rows], identity)
    expected, rest = 0, np.zeros((engine.spec.compact, 3), np.float32)
    run = _SpeechRun(engine, view, config, seed)
    for position, displacement in run.positions(speech):
        # All speech of the first seconds is there at time 0, so the utterance starts at play position 0.
        if position < expected:
            raise EngineFailed(f"the session planned frame {position} instead of {expected}")
        for shown in [*[rest] * (position - expected), displacement]:
            yield shown
            expected += 1
            if expected == frames:
                return
    if run.played_frames >= frames:  # it ends at rest
        yield from [rest] * (frames - expected)
        return
    raise EngineFailed(f"the session stopped after {expected} of {frames} frames")


class MotionBetween:
    """Motion at any time, from the frames at 25 frames/s as they come; asked for times that never go back."""

    def __init__(self, frames: Iterator[F32]) -> None:
        self._frames = frames
        self._index = 0
        self._before = next(frames)
        self._after = next(frames, self._before)

    def at(self, time_s: float) -> F32:
        """Displacement float32 [Kc, 3] at a time of the speech; beyond either end, the outermost frame's."""
        place = max(0.0, time_s * FPS - 0.5)  # frame n stands for the middle of its 40 ms
        while self._index + 1 <= place:
            self._before, self._after = self._after, next(self._frames, self._after)
            self._index += 1
        share = np.float32(place - self._index)
        mixed: F32 = ((1 - share) * self._before + share * self._after).astype(np.float32)
        return mixed
