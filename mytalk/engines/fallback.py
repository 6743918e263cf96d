"""An engine that outlives the failure of a runtime: a failed call is made again, then by the next engine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.engine import Engine
from mytalk.engines.warm import Exercise
from mytalk.errors import BadInput, EngineFailed
from mytalk.types import F32, U8, MotionJob, MotionResult, MotionState

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class FallbackEngine:
    """``Engine`` that takes the place of several, which must hold the same weights.

    What fails is tried once more, since a failure may pass; then the next engine that can do this very call
    takes over for good. Motion memory and latents have the same form in every engine, so sessions go on
    and notice a delay at most. If none can do the call, its input is to blame: the engine stays, and
    ``EngineFailed`` is raised.
    """

    def __init__(self, first: Engine, others: Sequence[Callable[[], Engine]]) -> None:
        """others: load the engines that may take over, best first; called only when one is needed.

        They may raise ``EngineFailed`` or ``BadInput`` (not installed, cannot run here) and are left out.
        """
        self.name, self.spec = first.name, first.spec
        self._engine = first
        self._others = list(others)
        self._ready: list[Engine] = []  # loaded, and could not do an earlier call that failed
        self._replacing = threading.Lock()
        self._one_call = threading.Lock()  # of engines that are not concurrent

    def initial_state(self) -> MotionState:
        """Memory with nothing known."""
        return self._engine.initial_state()

    def identity(self, rest_xy: F32) -> F32:
        """Identity embedding [E] of a rest face."""
        return self._call("identity", lambda engine: engine.identity(rest_xy))

    def motion(self, jobs: Sequence[MotionJob]) -> list[MotionResult]:
        """One hop for each job."""
        return self._call("motion", lambda engine: engine.motion(jobs))

    def encode_appearance(self, references: U8, faces: U8) -> F32:
        """Appearance latents of an actor's crops."""
        return self._call("encode", lambda engine: engine.encode_appearance(references, faces))

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Make ready to decode with one person's weights; whoever takes over later does so when it decodes.

        A failure may be the device's or these weights' alone. Work that needs none of them tells: it replaces
        an engine that cannot do it, while weights that do not fit cost nobody an engine.
        """
        try:
            self._run(self._engine, lambda engine: engine.load_decoder(tuned))
        except EngineFailed as error:
            logger.warning("%s: load failed: %s", self._engine.name, error)
            work = Exercise(self, most=1)
            work.motion()
            work.decode(1)
            self._run(self._engine, lambda engine: engine.load_decoder(tuned))

    def decode(
        self,
        landmark_images: F32,
        latents: F32,
        references: U8,
        flows: F32,
        tuned: TunedDecoder | None = None,
    ) -> U8:
        """Lip pictures."""
        return self._call(
            "decode", lambda engine: engine.decode(landmark_images, latents, references, flows, tuned)
        )

    @property
    def concurrent(self) -> bool:
        """Any thread may call it: where the engine at work cannot bear that, calls wait for each other."""
        return True

    @property
    def batch(self) -> int:
        """That of the engine at work."""
        return self._engine.batch

    def _call(self, what: str, call: Callable[[Engine], Result]) -> Result:
        engine = self._engine
        for _ in range(2):
            try:
                return self._run(engine, call)
            except EngineFailed as error:
                failure = error
                logger.warning("%s: %s failed: %s", engine.name, what, error)
        with self._replacing:
            if self._engine is engine:
                return self._replace(call, failure)
        return self._call(what, call)  # another thread has replaced it meanwhile

    def _run(self, engine: Engine, call: Callable[[Engine], Result]) -> Result:
        with nullcontext() if engine.concurrent else self._one_call:
            return call(engine)

    def _replace(self, call: Callable[[Engine], Result], failure: EngineFailed) -> Result:
        place = 0
        while place < len(self._ready) or self._load_next():
            engine = self._ready[place]
            place += 1
            try:
                result = self._run(engine, call)
            except EngineFailed as error:
                logger.warning("%s could not take over: %s", engine.name, error)
                continue
            logger.error("%s has failed twice; %s takes over", self.name, engine.name)
            del self._ready[:place]  # those before it could not do this call either
            self._engine, self.name = engine, engine.name
            return result
        raise failure

    def _load_next(self) -> bool:
        """Make one more engine ready, if there is one; it stays ready, since loading takes seconds."""
        while self._others:
            try:
                engine = self._others.pop(0)()
            except (EngineFailed, BadInput) as error:
                logger.info("an engine cannot take over: %s", error)
                continue
            known = {self.name, *(ready.name for ready in self._ready)}
            if engine.name not in known and engine.spec.weights_id == self.spec.weights_id:
                self._ready.append(engine)
                return True
        return False
