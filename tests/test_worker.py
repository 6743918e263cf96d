"""The device worker: fair, urgent first, failures stay where they happen, idle work last."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mytalk.errors import SessionClosed
from mytalk.types import FrameSpec, PictureJob, PictureResult
from server.compute.worker import DevicePlan, Worker


class Asker:
    """A customer with a number of jobs to do."""

    def __init__(
        self, log: list[str], name: str, jobs: int, due: float = 0.0, error: Exception | None = None
    ):
        self.log, self.name, self.jobs, self.due, self.error = log, name, jobs, due, error
        self.done: list[Any] = []
        self.failed: list[Exception] = []
        self.in_flight = 0
        self.thread: int | None = None
        self.hold = threading.Event()
        self.hold.set()

    def runs_dry(self) -> float:
        return self.due

    def next_job(self) -> PictureJob | None:
        assert self.in_flight == 0
        if self.jobs == 0:
            return None
        self.jobs -= 1
        self.in_flight += 1
        return PictureJob(0, ())

    def execute(self, job: PictureJob) -> PictureResult:
        self.thread = threading.get_ident()
        self.hold.wait(5)
        self.log.append(self.name)
        if self.error is not None:
            raise self.error
        return PictureResult(())

    def complete(self, job: PictureJob, result: PictureResult, now: float) -> None:
        self.in_flight -= 1
        self.done.append(result)

    def fail(self, job: PictureJob, error: Exception, now: float) -> None:
        self.in_flight -= 1
        self.failed.append(error)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker(time.monotonic)
    yield worker
    await worker.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_urgent_one_goes_first_and_equals_take_turns(worker: Worker) -> None:
    log: list[str] = []
    askers = [Asker(log, name, 3, due) for name, due in (("late", 2.0), ("one", 1.0), ("two", 1.0))]
    for asker in askers:
        worker.add(asker)
    worker.start()
    await until(lambda: len(log) == 9)
    assert log == ["one", "two"] * 3 + ["late"] * 3
    assert askers[0].thread == askers[1].thread != threading.get_ident()


async def test_a_failure_reaches_its_own_session_only(worker: Worker) -> None:
    log: list[str] = []
    bad, good = Asker(log, "bad", 2, error=ValueError("broken")), Asker(log, "good", 2)
    worker.add(bad)
    worker.add(good)
    worker.start()
    await until(lambda: len(log) == 4 and len(good.done) == 2 and len(bad.failed) == 2)
    assert not good.failed
    assert not bad.done


async def test_the_result_for_a_session_that_left_is_dropped(worker: Worker) -> None:
    log: list[str] = []
    leaver = Asker(log, "leaver", 1)
    leaver.hold.clear()
    worker.add(leaver)
    worker.start()
    await until(lambda: leaver.in_flight)
    worker.remove(leaver)
    worker.remove(leaver)
    leaver.hold.set()
    await until(lambda: log)
    other = Asker(log, "other", 1)
    worker.add(other)
    await until(lambda: other.done)
    assert leaver.in_flight == 1


async def test_a_closed_session_is_forgotten(worker: Worker) -> None:
    class Closed(Asker):
        def next_job(self) -> PictureJob | None:
            raise SessionClosed("closed")

    log: list[str] = []
    worker.add(Closed(log, "closed", 1))
    other = Asker(log, "other", 1)
    worker.add(other)
    worker.start()
    await until(lambda: other.done)


class Pieces:
    """Something done in a number of pieces of some length."""

    def __init__(self, log: list[str], name: str, count: int, piece_s: float = 0.0) -> None:
        self.log, self.name, self.count, self.piece_s = log, name, count, piece_s

    def __call__(self) -> bool:
        time.sleep(self.piece_s)
        self.log.append(self.name)
        self.count -= 1
        return self.count > 0


async def woken(worker: Worker, condition: Any) -> float:
    """Wake the worker as open sessions do, until something is so; returns the seconds that it took."""
    begin = time.monotonic()
    async with asyncio.timeout(5):
        while not condition():
            worker.wake()
            await asyncio.sleep(0.005)
    return time.monotonic() - begin


async def test_pieces_wait_for_jobs(worker: Worker) -> None:
    log: list[str] = []
    worker.add(Asker(log, "job", 3))
    work = asyncio.create_task(worker.in_pieces(Pieces(log, "piece", 2)))
    await asyncio.sleep(0)
    worker.start()
    await woken(worker, work.done)
    assert log == ["job"] * 3 + ["piece"] * 2


async def test_a_job_that_comes_up_goes_before_the_next_piece(worker: Worker) -> None:
    log: list[str] = []
    asker = Asker(log, "job", 0)
    worker.add(asker)

    def piece() -> bool:
        log.append("piece")
        asker.jobs = 1
        return log.count("piece") < 4

    worker.start()
    work = asyncio.create_task(worker.in_pieces(piece))
    await woken(worker, lambda: work.done() and asker.jobs == 0)
    assert log == ["piece", "job"] * 4


async def test_pieces_rest_while_sessions_are_open_and_hurry_when_none_is(worker: Worker) -> None:
    log: list[str] = []
    worker.start()
    begin = time.monotonic()
    await worker.in_pieces(Pieces(log, "alone", 10, 0.01))
    assert time.monotonic() - begin < 0.19
    worker.add(Asker(log, "job", 0))
    assert worker.has_customers
    work = asyncio.create_task(worker.in_pieces(Pieces(log, "beside", 10, 0.01)))
    assert await woken(worker, work.done) > 0.19, "half of the device is left alone"


async def test_pieces_go_on_by_themselves_when_the_last_session_leaves(worker: Worker) -> None:
    log: list[str] = []
    asker = Asker(log, "job", 0)
    worker.add(asker)
    worker.start()
    work = asyncio.create_task(worker.in_pieces(Pieces(log, "piece", 5, 0.03)))
    await until(lambda: log)
    worker.remove(asker)  # in the middle of a rest; nobody wakes the worker any more
    await until(work.done)


async def test_what_nobody_waits_for_is_seldom_and_last(worker: Worker) -> None:
    log: list[str] = []
    worker.add(Asker(log, "job", 0))
    idle = asyncio.create_task(worker.in_pieces(Pieces(log, "idle", 2), seldom=True))
    await asyncio.sleep(0)
    work = asyncio.create_task(worker.in_pieces(Pieces(log, "waited for", 3)))
    await asyncio.sleep(0)
    worker.start()
    await woken(worker, work.done)
    assert log[0] == "waited for"
    await asyncio.sleep(0.05)
    assert log.count("idle") <= 1
    await woken(worker, idle.done)
    assert log.count("idle") == 2


async def test_a_piece_that_fails_is_told_to_who_waits_and_the_worker_goes_on(worker: Worker) -> None:
    log: list[str] = []

    def piece() -> bool:
        raise ValueError("broken")

    worker.start()
    with pytest.raises(ValueError, match="broken"):
        await worker.in_pieces(piece)
    asker = Asker(log, "job", 1)
    worker.add(asker)
    await until(lambda: asker.done)


async def test_work_that_is_cancelled_stops_at_the_next_piece(worker: Worker) -> None:
    log: list[str] = []
    worker.start()
    work = asyncio.create_task(worker.in_pieces(Pieces(log, "piece", 1000, 0.01)))
    await until(lambda: len(log) > 2)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    count = len(log)
    await worker.in_pieces(Pieces(log, "next", 1))
    assert len(log) <= count + 2


class Painter(Asker):
    """A customer with picture jobs of some frames; remembers the parts it was asked for."""

    def __init__(self, log: list[str], name: str, jobs: int, frames: int, due: float = 0.0) -> None:
        super().__init__(log, name, jobs, due)
        self.frames, self.parts, self.at_once, self.most = frames, [], 0, 0
        self.lock = threading.Lock()

    def next_job(self) -> PictureJob | None:
        job = super().next_job()
        return job and replace(job, frames=tuple(FrameSpec(i, None) for i in range(self.frames)))

    def execute(self, job: PictureJob) -> PictureResult:
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.02)
        with self.lock:
            self.at_once -= 1
            self.parts.append(tuple(spec.clip_index for spec in job.frames))
        super().execute(job)
        pictures = tuple(np.full((1, 1, 3), spec.clip_index, np.uint8) for spec in job.frames)
        return PictureResult(pictures, {"draw": 1.0})


@contextlib.asynccontextmanager
async def working(plan: DevicePlan, *customers: Any) -> AsyncIterator[Worker]:
    worker = Worker(time.monotonic, plan)
    for customer in customers:
        worker.add(customer)
    worker.start()
    try:
        yield worker
    finally:
        await worker.close()


async def test_the_pictures_of_a_job_use_all_lanes_and_keep_their_order() -> None:
    painter = Painter([], "painter", 2, frames=3)
    async with working(DevicePlan(lanes=3), painter) as worker:
        await until(lambda: len(painter.done) == 2)
        assert worker.busy_s > 0.1
    assert painter.most == 3
    assert sorted(painter.parts) == [(0,), (0,), (1,), (1,), (2,), (2,)]
    for result in painter.done:
        assert [int(picture[0, 0, 0]) for picture in result.pictures] == [0, 1, 2]
        assert result.stages_s == {"draw": 3.0}


async def test_a_part_that_fails_is_the_jobs_failure_and_told_once() -> None:
    painter = Painter([], "painter", 1, frames=2)
    painter.error = ValueError("broken")
    async with working(DevicePlan(lanes=2), painter):
        await until(lambda: painter.failed)
    assert len(painter.failed) == 1
    assert not painter.done


async def test_two_sessions_use_two_lanes_at_the_same_time() -> None:
    log: list[str] = []
    held, free = Asker(log, "held", 1, due=0.0), Asker(log, "free", 2, due=1.0)
    held.hold.clear()
    async with working(DevicePlan(lanes=2), held, free):
        await until(lambda: len(free.done) == 2)
        assert not held.done
        held.hold.set()
        await until(lambda: held.done)


def batched(calls: list[list[str]]) -> DevicePlan:
    def together(tasks: Any) -> Any:
        calls.append([customer.name for customer, _ in tasks])
        return [customer.execute(job) for customer, job in tasks]

    return DevicePlan(lanes=1, batch=4, together=together)


async def test_jobs_of_several_sessions_share_calls_up_to_the_batch() -> None:
    calls: list[list[str]] = []
    painters = [Painter([], name, 1, frames=2, due=due) for due, name in enumerate("abc")]
    async with working(batched(calls), *painters):
        await until(lambda: all(painter.done for painter in painters))
    assert calls == [["a", "b"], ["c"]]


async def test_one_bad_job_does_not_spoil_the_others_of_its_call() -> None:
    calls: list[list[str]] = []
    good, bad = Painter([], "good", 1, frames=1), Painter([], "bad", 1, frames=1)
    bad.error = ValueError("broken")
    async with working(batched(calls), good, bad):
        await until(lambda: good.done and bad.failed)
    assert calls == [["good", "bad"]]
    assert not good.failed


async def test_a_job_that_waits_for_the_next_call_is_dropped_when_its_session_leaves() -> None:
    calls: list[list[str]] = []
    first, second = Painter([], "first", 1, frames=4), Painter([], "second", 1, frames=4, due=1.0)
    first.hold.clear()
    async with working(batched(calls), first, second) as worker:
        await until(lambda: calls)
        worker.remove(second)
        first.hold.set()
        await until(lambda: first.done)
        await asyncio.sleep(0.05)
    assert calls == [["first"]]


async def test_close_is_idempotent_and_needs_no_start() -> None:
    worker = Worker(time.monotonic)
    await worker.close()
    await worker.close()
