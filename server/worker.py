"""Owns the device: one thread runs the sessions' jobs, one at a time, the most urgent session first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mytalk.errors import SessionClosed
from mytalk.types import Job, JobResult

logger = logging.getLogger(__name__)
SELDOM_EVERY_S = 1.0  # while sessions are open: work that nobody waits for must not eat what they need
REST = 1.0  # of work that somebody waits for: rests between pieces as long as they took (sessions are open)
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


@dataclass(eq=False)
class _Work:
    """Something long, done in small pieces. piece: called on the device thread until it returns False."""

    piece: Callable[[], bool]
    done: asyncio.Future[None]
    seldom: bool


class Worker:
    """One device, many sessions.

    There is no queue of jobs: a session is asked for its next job when the device is free, so at most one job
    is in flight and a session that interrupts or leaves has nothing waiting. Sessions take turns (least
    recently served first), and within a turn the one whose next slice leaves first goes first.
    When nobody has a job, one small piece of other work is done (``in_pieces``); then the sessions are asked
    again, so that a session's job waits for one such piece at most.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")
        self._wake = asyncio.Event()
        self._served: dict[Customer, int] = {}  # customer → turn in which it was last served
        self._turn = 0
        self._work: list[_Work] = []
        self._next_piece_s = {False: 0.0, True: 0.0}  # by _Work.seldom: not before, while sessions are open
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

    def wake(self) -> None:
        """Something changed that may have made a job."""
        self._wake.set()

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run something else that needs the device, between two jobs."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    @property
    def has_customers(self) -> bool:
        """Whether sessions are open, so that other work should be done in very small pieces."""
        return bool(self._served)

    async def in_pieces(self, piece: Callable[[], bool], *, seldom: bool = False) -> None:
        """Call ``piece`` on the device thread, between the sessions' jobs, until it returns False.

        seldom: nobody waits for it; while sessions are open it is called once a second. Raises what ``piece``
        raises. Cancelling this call leaves out the pieces that have not begun.
        """
        work = _Work(piece, asyncio.get_running_loop().create_future(), seldom)
        self._work.append(work)
        self.wake()
        try:
            await work.done
        finally:
            self._work.remove(work)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if not await self._serve_one() and not await self._one_piece():
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

    def _next_work(self) -> _Work | None:
        """What somebody waits for goes first, the oldest first; what has ended is left out."""
        waiting = sorted((work for work in self._work if not work.done.done()), key=lambda work: work.seldom)
        now = self._clock()
        for work in waiting:
            if not self._served or now >= self._next_piece_s[work.seldom]:
                return work
        return None

    async def _one_piece(self) -> bool:
        """One small piece of other work; False when there is none, or it is not time for it."""
        work = self._next_work()
        if work is None:
            return False
        begin = self._clock()
        try:
            more = await self.call(work.piece)
        except Exception as error:
            if not work.done.done():
                work.done.set_exception(error)
            return True
        end = self._clock()
        rest_s = SELDOM_EVERY_S if work.seldom else REST * (end - begin)
        self._next_piece_s[work.seldom] = end + rest_s
        # the last session may leave meanwhile, and then nobody else wakes the worker
        asyncio.get_running_loop().call_later(rest_s, self.wake)
        if not more and not work.done.done():
            work.done.set_result(None)
        return True
