"""Idle, speech, a pause, an interruption, with the shipped weights: no cut, and a mouth that shuts soon."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mytalk.actors.actor import load_actor
from mytalk.clock import FRAME_S
from mytalk.config import SessionConfig
from mytalk.engines import default_bundle, load_engine
from mytalk.engines.engine import Engine
from mytalk.session import TalkSession
from mytalk.types import F32, I16, U8, ActorView, FrameSpec, MotionJob, PictureResult
from mytalk.video.media import read_speech

HERE = Path(__file__).parent
PACKET = 960
INTERRUPT_LIMIT_S = 0.24  # to a closed mouth


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine("onnx", default_bundle(), threads=1)


@pytest.fixture(scope="module")
def view(engine: Engine) -> ActorView:
    actor = load_actor(HERE.parent / "actors" / "ada")
    identity = engine.identity(np.ascontiguousarray(actor.motion.rest[:, :2]))
    return ActorView("ada", actor.motion.order, actor.upper, identity)


@dataclass
class Show:
    """What is on show, slot by slot: the displacement, zeros for the idle face."""

    engine: Engine
    session: TalkSession
    now: float = 0.0
    shown: list[F32] = field(default_factory=list)
    idle: list[bool] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)
    _specs: dict[int, FrameSpec] = field(default_factory=dict)
    _kept: list[U8] = field(default_factory=list)  # so that no id is used twice

    def hear(self, speech: I16) -> None:
        """A microphone in real time."""
        for packet in np.split(speech, range(PACKET, len(speech), PACKET)):
            self.session.receive_speech(packet, 48_000, now=self.now, live=True)
            self.advance(0.02)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while (job := self.session.next_job()) is not None:
            if isinstance(job, MotionJob):
                self.session.complete(job, self.engine.motion([job])[0], self.now)
                continue
            pictures = tuple(np.zeros((1, 1, 3), np.uint8) for _ in job.frames)
            self._specs.update({id(p): spec for p, spec in zip(pictures, job.frames, strict=True)})
            self._kept += pictures
            self.session.complete(job, PictureResult(pictures), self.now)
        for piece in self.session.slices_due(self.now):
            spec = None if piece.picture is None else self._specs[id(piece.picture)]
            rest = np.zeros((self.engine.spec.compact, 3), np.float32)
            moved = None if spec is None else spec.displacement
            self.shown.append(rest if moved is None else moved)
            self.idle.append(moved is None)
            self.generations.append(piece.generation)

    def steps(self) -> F32:
        """Largest move of a landmark between a slot and the one before, float32 [slots - 1]."""
        moves = np.linalg.norm(np.diff(np.stack(self.shown), axis=0), axis=2)
        return moves.max(axis=1).astype(np.float32)


def speech() -> I16:
    """0.4 s of silence, then speech."""
    return np.concatenate(list(read_speech(HERE / "data" / "silence_then_speech.wav", 48_000)))[2 * 48_000 :]


def test_no_step_between_idle_and_speech_is_larger_than_those_within_speech(
    engine: Engine, view: ActorView
) -> None:
    session = TalkSession(view, engine.spec, engine.initial_state(), SessionConfig(), seed=3, now=0.0)
    show, pause = Show(engine, session), np.zeros(48_000 * 3 // 2, np.int16)
    show.advance(0.2)
    show.hear(np.concatenate([speech(), pause, speech(), pause]))
    session.end_of_speech(show.now)
    for _ in range(50):
        show.advance(FRAME_S)
    idle = np.array(show.idle)
    assert idle[0]
    assert idle[-1]
    borders = np.flatnonzero(np.diff(idle.astype(int)))
    assert len(borders) >= 4, "the face idled before, between and after"
    near = np.zeros(len(idle) - 1, bool)
    for border in borders:
        near[max(0, border - 5) : border + 6] = True
    steps = show.steps()
    assert steps[near].max() <= steps[~near].max()


def test_an_interrupted_mouth_is_shut_in_time_and_never_opens_again(engine: Engine, view: ActorView) -> None:
    session = TalkSession(view, engine.spec, engine.initial_state(), SessionConfig(), seed=3, now=0.0)
    show = Show(engine, session)
    show.hear(speech()[: 48_000 * 2])
    within = show.steps().max()
    widest = int(np.argmax([np.abs(moved).max() for moved in show.shown]))
    session = TalkSession(view, engine.spec, engine.initial_state(), SessionConfig(), seed=3, now=0.0)
    show = Show(engine, session)
    show.hear(speech()[: widest * PACKET * 2])
    assert not show.idle[-1]
    at, begin = show.now, len(show.shown)
    played = session.interrupt(show.now)
    assert 0 < played < widest * PACKET * 2
    for _ in range(30):
        show.advance(0.01)
    show.advance(1.0)
    shut = show.idle.index(True, begin)
    assert all(show.idle[shut:])
    assert (shut - begin + 1) * FRAME_S <= INTERRUPT_LIMIT_S
    assert set(show.generations[begin:]) == {show.generations[-1]}, "no slice of before"
    assert show.steps()[begin - 1 : shut].max() <= 1.5 * within, "fast, and no cut"
    assert show.now - at > 1.0
