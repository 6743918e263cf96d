"""An engine that fails is tried again, then replaced, and sessions go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest

from mytalk.actors.tuned import TunedDecoder
from mytalk.config import SessionConfig
from mytalk.engines import default_bundle, load_engine, load_lasting_engine
from mytalk.engines.fallback import FallbackEngine
from mytalk.errors import EngineFailed
from mytalk.landmarks.warp import flow_shape
from mytalk.session import TalkSession
from mytalk.types import Job, JobResult, MotionJob, MotionResult
from server.compute.worker import Worker
from tests.fakes import FakeEngine, fake_actor, run_job, voice
from tests.test_onnx_engine import job


class BreakingEngine(FakeEngine):
    """Its device is lost after a number of motion calls; ``lasts`` more calls fail, None: all."""

    def __init__(self, good: int, fails: int | None = None, name: str = "breaking") -> None:
        super().__init__()
        self.name, self.good, self.fails = name, good, fails

    def motion(self, jobs: Sequence[MotionJob]) -> list[MotionResult]:
        if self.motion_calls >= self.good and (self.fails is None or self.fails > 0):
            self.fails = None if self.fails is None else self.fails - 1
            raise EngineFailed("the device is gone")
        return super().motion(jobs)


def uninstalled() -> FakeEngine:
    raise EngineFailed("not installed")


class SessionCustomer:
    """A session whose jobs run with an engine, as ``server.rtc.peer`` serves it."""

    def __init__(self, session: TalkSession, engine: FallbackEngine) -> None:
        self.session, self.engine = session, engine
        self.failures: list[Exception] = []
        self.engines: list[str] = []

    def runs_dry(self) -> float:
        return self.session.runs_dry()

    def next_job(self) -> Job | None:
        return self.session.next_job()

    def execute(self, job: Job) -> JobResult:
        result = run_job(self.engine, job)
        self.engines.append(self.engine.name)
        return result

    def complete(self, job: Job, result: JobResult, now: float) -> None:
        self.session.complete(job, result, now)

    def fail(self, job: Job, error: Exception, now: float) -> None:
        self.failures.append(error)
        self.session.fail(job, error, now)


async def test_sessions_go_on_when_their_engine_dies_in_the_middle():
    broken = BreakingEngine(good=5)
    engine = FallbackEngine(broken, [uninstalled, FakeEngine])
    worker, customers = Worker(time.monotonic), []
    for seed in range(2):
        now = time.monotonic()
        session = TalkSession(
            fake_actor(), engine.spec, engine.initial_state(), SessionConfig(), seed=seed, now=now
        )
        session.receive_speech(voice(1.0), 48_000, now=now, live=False)
        session.end_of_speech(now)
        customers.append(SessionCustomer(session, engine))
        worker.add(customers[-1])
    worker.start()
    try:
        async with asyncio.timeout(10):
            while not all("fake" in customer.engines for customer in customers):
                for customer in customers:
                    customer.session.slices_due(time.monotonic())
                worker.wake()
                await asyncio.sleep(0.005)
    finally:
        await worker.close()
    assert all("breaking" in customer.engines for customer in customers)
    assert [customer.failures for customer in customers] == [[], []]
    assert engine.name == "fake"


def some_job(engine):
    spec = engine.spec
    return MotionJob(
        generation=0,
        state=engine.initial_state(),
        log_mel=np.zeros((spec.mel_frames, 80), np.float32),
        upper=np.zeros((spec.tokens, spec.upper), np.float32),
        identity=np.zeros(spec.identity, np.float32),
        noise=np.zeros((spec.tokens, spec.coefficients), np.float32),
        position=0,
        hop=2,
        tokens=4,
    )


def test_a_failure_that_passes_changes_nothing():
    engine = FallbackEngine(BreakingEngine(good=0, fails=1), [FakeEngine])
    assert len(engine.motion([some_job(engine)])) == 1
    assert engine.name == "breaking"


def test_the_next_that_works_takes_over_and_the_last_failure_is_told():
    others = [
        uninstalled,
        lambda: BreakingEngine(good=0, name="dead"),
        lambda: BreakingEngine(2, name="weak"),
    ]
    engine = FallbackEngine(BreakingEngine(good=0), [*others, FakeEngine])
    names = []
    for _ in range(3):
        assert len(engine.motion([some_job(engine)])) == 1
        names.append(engine.name)
    assert names == ["weak", "weak", "fake"]
    alone = FallbackEngine(BreakingEngine(good=0), [uninstalled])
    for _ in range(2):
        with pytest.raises(EngineFailed, match="the device is gone"):
            alone.motion([some_job(alone)])


def test_an_input_that_no_engine_can_use_costs_no_engine():
    engine = load_lasting_engine("onnx-fp32", default_bundle(), 1)
    with pytest.raises(EngineFailed, match="motion failed"):
        engine.motion([job(engine, log_mel=np.zeros((5, 80), np.float32))])
    assert engine.name == "onnx-fp32"
    one = load_engine("onnx-fp32", default_bundle(), 1).motion([job(engine)])[0]
    np.testing.assert_array_equal(engine.motion([job(engine)])[0].displacement, one.displacement)


class Undecoding(FakeEngine):
    def decode(self, *inputs):
        raise EngineFailed("the device is gone")


def test_who_takes_over_decodes_with_the_same_weights():
    broken, other = Undecoding(), FakeEngine()
    broken.name = "broken"
    lasting = FallbackEngine(broken, [lambda: other])
    tuned = TunedDecoder(other.spec.appearance_id, {"decoder.out.bias": np.ones(4, np.float16)})
    lasting.load_decoder(tuned)
    assert broken.decoders_loaded == [tuned.digest]
    inputs = (
        np.zeros((1, 3, 256, 256), np.float32),
        np.zeros((1, 3, 64, 64), np.float32),
        np.zeros((1, 3, 3, 480, 528), np.uint8),
        np.zeros((1, 3, 2, *flow_shape()), np.float32),
    )
    assert lasting.decode(*inputs, tuned).min() == 255, "the fake turns light into dark with own weights"
    assert lasting.decode(*inputs).max() == 0
    assert lasting.name == "fake"


class Dead(Undecoding):
    def load_decoder(self, tuned):
        raise EngineFailed("the device is gone")


def test_one_persons_weights_find_the_next_engine_when_the_device_is_gone():
    dead, other = Dead(), FakeEngine()
    dead.name = "dead"
    lasting = FallbackEngine(dead, [lambda: other])
    tuned = TunedDecoder(other.spec.appearance_id, {"decoder.out.bias": np.ones(4, np.float16)})
    lasting.load_decoder(tuned)
    assert (lasting.name, other.decoders_loaded) == (other.name, [tuned.digest])


def test_weights_that_do_not_fit_cost_nobody_an_engine():
    class Refuses(FakeEngine):
        def load_decoder(self, tuned):
            raise EngineFailed("the decoder has no weights x")

    def another():
        pytest.fail("no other engine is wanted")

    first = Refuses()
    lasting = FallbackEngine(first, [another])
    with pytest.raises(EngineFailed, match="no weights x"):
        lasting.load_decoder(TunedDecoder(first.spec.appearance_id, {"x": np.ones(4, np.float16)}))
    assert lasting._engine is first
