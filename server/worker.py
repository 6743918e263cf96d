"""Owns the device: one thread runs the sessions' jobs, one at a time, the most urgent session first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from mytalk.errors import SessionClosed
from mytalk.types import Job, JobResult

logger = logging.getLogger(__name__)
IDLE_EVERY_S = 1.0  # while sessions are open: idle work must not eat what they need
Result = TypeVar("Result")


class Customer(Protocol):
    """A session that needs the device; all but ``execute`` is called on the event loop."""

    def next_due(self) -> float:
        """When its next slice leaves (monotonic seconds)."""
        ...

    def next_job(self) -> Job | None:
        """What to compute now, or None; the job is then in flight until ``complete`` or ``fail``."""
        ...

    def execute(self, job: Job) -> JobResult:
        """Compute, on the device thread."""
        ...

    def complete(self, job: Job, result: JobResult, now: float) -> None:
        """Take the result of a job."""
        ...

    def fail(self, job: Job, error: Exception, now: float) -> None:
        """Learn that a job failed."""
        ...


class Worker:
    """One device, many sessions.

    There is no queue of jobs: a session is asked for its next job when the device is free, so at most one job
    is in flight and a session that interrupts or leaves has nothing waiting. Sessions take turns (least
    recently served first), and within a turn the one whose next slice leaves first goes first.
    When nobody has a job, ``idle_work`` is called, one small piece at a time (seldom while sessions are
    open).
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._wake = asyncio.Event()
        self._served: dict[Customer, int] = {}  # customer → turn in which it was last served
        self._turn = 0
        self._idle_work: list[Callable[[], bool]] = []
        self._next_idle_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve; call once, on the event loop."""
        self._task = asyncio.create_task(self._run(), name="device worker")

    async def close(self) -> None:
        """Stop after the job that runs; idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    def add(self, customer: Customer) -> None:
        """Serve this session from now on."""
        self._served[customer] = self._turn
        self.wake()

    def remove(self, customer: Customer) -> None:
        """Forget this session; the result of a job in flight is dropped. Idempotent."""
        self._served.pop(customer, None)

    def add_idle_work(self, piece: Callable[[], bool]) -> None:
        """Call ``piece`` on the device thread whenever nobody has a job, until it returns False or fails."""
        self._idle_work.append(piece)
        self.wake()

    def drop_idle_work(self, piece: Callable[[], bool]) -> None:
        """Forget ``piece``; idempotent."""
        if piece in self._idle_work:
            self._idle_work.remove(piece)

    def wake(self) -> None:
        """Something changed that may have made a job."""
        self._wake.set()

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run something else that needs the device, between two jobs."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if not await self._serve_one() and not await self._idle_once():
                await self._wake.wait()

    def _pick(self) -> tuple[Customer, Job] | None:
        turns = sorted(self._served, key=lambda customer: (self._served[customer], customer.next_due()))
        for customer in turns:
            try:
                job = customer.next_job()
            except SessionClosed:
                self.remove(customer)
                continue
            if job is not None:
                return customer, job
        return None

    async def _serve_one(self) -> bool:
        picked = self._pick()
        if picked is None:
            return False
        customer, job = picked
        self._turn += 1
        self._served[customer] = self._turn
        result: JobResult | None = None
        failure: Exception | None = None
        try:
            result = await self.call(lambda: customer.execute(job))
        except Exception as error:  # one session's failure must not stop the others
            logger.warning("a %s failed: %s", type(job).__name__, error)
            failure = error
        if customer not in self._served:
            return True
        try:
            if result is not None:
                customer.complete(job, result, self._clock())
            elif failure is not None:
                customer.fail(job, failure, self._clock())
        except SessionClosed:
            self.remove(customer)
        except Exception:
            logger.exception("a session could not take the result of its %s", type(job).__name__)
            self.remove(customer)
        return True

    async def _idle_once(self) -> bool:
        """One small piece of the oldest idle work; False when there is none, or it is not time for it.

        Open sessions wake the worker with every slice, so nobody needs to wake it for the next piece.
        """
        if not self._idle_work or (self._served and self._clock() < self._next_idle_s):
            return False
        self._next_idle_s = self._clock() + IDLE_EVERY_S
        piece = self._idle_work[0]
        try:
            more = await self.call(piece)
        except Exception as error:
            logger.warning("idle pictures are not rendered: %s", error)
            more = False
        if not more:
            self.drop_idle_work(piece)
        return True
