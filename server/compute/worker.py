"""Owns the device: sessions' jobs on a few threads, the most urgent first, batched where that is faster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from mytalk.errors import SessionClosed
from mytalk.types import Job, JobResult, PictureJob, PictureResult
from server.actors.cast import SharedRenderer
from server.compute.batching import Durations, Waiting, choose

logger = logging.getLogger(__name__)
SELDOM_EVERY_S = 1.0  # while sessions are open: work that nobody waits for must not eat what they need
REST = 1.0  # of work that somebody waits for: rests between pieces as long as they took (sessions are open)
Result = TypeVar("Result")


class Customer(Protocol):
    """A session that needs the device; all but ``execute`` is called on the event loop."""

    renderer: SharedRenderer

    def runs_dry(self) -> float:
        """When its next job is due (monotonic seconds)."""
        ...

    def next_job(self) -> Job | None:
        """What to compute now, or None; the job is then in flight until ``complete`` or ``fail``."""
        ...

    def execute(self, job: Job) -> JobResult:
        """Compute, on a device thread; parts of one job may be computed at the same time."""
        ...

    def complete(self, job: Job, result: JobResult, now: float) -> None:
        """Take the result of a job."""
        ...

    def fail(self, job: Job, error: Exception, now: float) -> None:
        """Learn that a job failed."""
        ...


Together = Callable[[Sequence[tuple[Customer, Job]]], list[JobResult]]


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """How the device is used. lanes: threads that compute at the same time.

    batch: most rows (hops or pictures) of one engine call. 1: every picture is a call of its own, so that the
    pictures of one job use several lanes. together: runs jobs of several customers in one call (batch > 1).
    """

    lanes: int = 1
    batch: int = 1
    together: Together | None = None


@dataclass(eq=False)
class _Work:
    """Something long, done in small pieces. piece: called on a device thread until it returns False."""

    piece: Callable[[], bool]
    done: asyncio.Future[None]
    seldom: bool


@dataclass(frozen=True, eq=False)
class _Taken(Waiting):
    """A job that its customer has handed out."""

    customer: Customer


class Worker:
    """One device, many sessions.

    A session is asked for its next job when a lane is free, earliest deadline first; of equal ones the least
    recently served. Without batches there is no queue of jobs, so a session that interrupts or leaves has
    nothing waiting; with batches, jobs that did not fit into a call wait for the next one, at most one of
    each session. When nobody has a job, one small piece of other work is done (``in_pieces``), on one lane.
    """

    def __init__(self, clock: Callable[[], float], plan: DevicePlan | None = None) -> None:
        self._clock = clock
        self._plan = plan or DevicePlan()
        self._threads = ThreadPoolExecutor(self._plan.lanes, thread_name_prefix="device")
        self._wake = asyncio.Event()
        self._served: dict[Customer, int] = {}  # customer → turn in which it was last served
        self._turn = 0
        self._taken: list[_Taken] = []  # jobs that wait for a call
        self._flying: set[Customer] = set()  # whose job waits or is computed
        self._durations = Durations()
        self._running: dict[asyncio.Task[None], int] = {}  # calls that are under way → lanes that they take
        self._work: list[_Work] = []
        self._next_piece_s = {False: 0.0, True: 0.0}  # by _Work.seldom: not before, while sessions are open
        self._piece: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.busy_s = 0.0  # seconds that lanes have computed for sessions, in all
        self.cpu_s = 0.0  # and the processor time of their threads meanwhile

    def start(self) -> None:
        """Begin to serve; call once, on the event loop."""
        self._task = asyncio.create_task(self._run(), name="device worker")

    async def close(self) -> None:
        """Stop after the jobs that run; idempotent."""
        every = [task for task in (self._task, self._piece, *self._running) if task is not None]
        self._task = self._piece = None
        for task in every:
            task.cancel()
        await asyncio.gather(*every, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def lanes(self) -> int:
        """Threads that compute at the same time."""
        return self._plan.lanes

    def add(self, customer: Customer) -> None:
        """Serve this session from now on."""
        self._served[customer] = self._turn
        self.wake()

    def remove(self, customer: Customer) -> None:
        """Forget this session; the result of a job in flight is dropped. Idempotent."""
        self._served.pop(customer, None)
        if any(taken.customer is customer for taken in self._taken):
            self._taken = [taken for taken in self._taken if taken.customer is not customer]
            self._flying.discard(customer)

    def wake(self) -> None:
        """Something changed that may have made a job."""
        self._wake.set()

    @property
    def has_customers(self) -> bool:
        """Whether sessions are open, so that other work should be done in very small pieces."""
        return bool(self._served)

    async def in_pieces(self, piece: Callable[[], bool], *, seldom: bool = False) -> None:
        """Call ``piece`` on a device thread, between the sessions' jobs, until it returns False.

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
            while sum(self._running.values()) < self._plan.lanes and self._begin_call():
                pass
            if self._piece is None and sum(self._running.values()) < self._plan.lanes:
                self._begin_piece()
            await self._wake.wait()

    def _ask(self) -> None:
        """Take jobs from the customers, the most urgent first; without batches, one is enough."""
        free = {customer: customer.runs_dry() for customer in self._served if customer not in self._flying}
        for customer in sorted(free, key=lambda customer: (free[customer], self._served[customer])):
            if self._taken and self._plan.batch == 1:
                return
            try:
                job = customer.next_job()
            except SessionClosed:
                self.remove(customer)
                continue
            except Exception:
                logger.exception("a session could not say what to compute")
                self.remove(customer)
                continue
            if job is not None:
                self._flying.add(customer)
                self._taken.append(_Taken(job, free[customer], customer))

    def _begin_call(self) -> bool:
        """Start one engine call; False when nobody has a job."""
        self._ask()
        if not self._taken:
            return False
        call = choose(self._taken, self._durations, self._plan.batch, self._clock())
        taken = [each for each in self._taken if each in call]
        self._taken = [each for each in self._taken if each not in call]
        self._turn += 1
        for each in taken:
            self._served[each.customer] = self._turn
        task = asyncio.create_task(self._execute(taken), name="engine call")
        parts = taken[0].job.frames if self._plan.batch == 1 and isinstance(taken[0].job, PictureJob) else ()
        self._running[task] = max(1, len(parts))
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and task.exception() is not None:
            logger.error("a call of the device worker failed", exc_info=task.exception())
        self.wake()

    async def _execute(self, taken: Sequence[_Taken]) -> None:
        begin = self._clock()
        try:
            results: list[JobResult | Exception] = list(await self._together(taken))
        except Exception as error:
            # One session's failure must not stop the others: each gets a call of its own.
            results = [error if len(taken) == 1 else await self._alone(each) for each in taken]
        now = self._clock()
        self._durations.took([each.job for each in taken], now - begin)
        for each, result in zip(taken, results, strict=True):
            self._deliver(each, result, now)

    async def _together(self, taken: Sequence[_Taken]) -> list[JobResult]:
        together = self._plan.together
        if self._plan.batch > 1 and together is not None:
            tasks = [(each.customer, each.job) for each in taken]
            return await self._on_lane(lambda: together(tasks))
        return [await self._in_parts(each) for each in taken]

    async def _alone(self, taken: _Taken) -> JobResult | Exception:
        try:
            return await self._on_lane(lambda: taken.customer.execute(taken.job))
        except Exception as error:
            return error

    async def _in_parts(self, taken: _Taken) -> JobResult:
        """A job on as many lanes as it has pictures."""
        job, customer = taken.job, taken.customer
        if self._plan.lanes == 1 or not isinstance(job, PictureJob) or len(job.frames) < 2:
            return await self._on_lane(lambda: customer.execute(job))
        parts = [replace(job, frames=(spec,)) for spec in job.frames]
        calls = [self._on_lane(partial(customer.execute, part)) for part in parts]
        done = await asyncio.gather(*calls, return_exceptions=True)
        failures = [result for result in done if isinstance(result, BaseException)]
        if failures:
            raise failures[0]
        return _joined([result for result in done if isinstance(result, PictureResult)])

    async def _on_lane(self, function: Callable[[], Result]) -> Result:
        def timed() -> tuple[Result, float, float]:
            begin, begin_cpu = time.perf_counter(), time.thread_time()
            result = function()
            return result, time.perf_counter() - begin, time.thread_time() - begin_cpu

        result, busy_s, cpu_s = await asyncio.get_running_loop().run_in_executor(self._threads, timed)
        self.busy_s += busy_s
        self.cpu_s += cpu_s
        return result

    def _deliver(self, taken: _Taken, result: JobResult | Exception, now: float) -> None:
        customer, job = taken.customer, taken.job
        self._flying.discard(customer)
        if isinstance(result, Exception):
            logger.warning("a %s failed: %s", type(job).__name__, result)
        if customer not in self._served:
            return
        try:
            if isinstance(result, Exception):
                customer.fail(job, result, now)
            else:
                customer.complete(job, result, now)
        except SessionClosed:
            self.remove(customer)
        except Exception:
            logger.exception("a session could not take the result of its %s", type(job).__name__)
            self.remove(customer)

    def _next_work(self) -> _Work | None:
        """What somebody waits for goes first, the oldest first; what has ended is left out."""
        waiting = sorted((work for work in self._work if not work.done.done()), key=lambda work: work.seldom)
        now = self._clock()
        for work in waiting:
            if not self._served or now >= self._next_piece_s[work.seldom]:
                return work
        return None

    def _begin_piece(self) -> None:
        """Start one small piece of other work, if there is one and it is time for it."""
        work = self._next_work()
        if work is not None:
            self._piece = asyncio.create_task(self._one_piece(work), name="piece of work")
            self._piece.add_done_callback(self._piece_ended)

    def _piece_ended(self, _task: asyncio.Task[None]) -> None:
        self._piece = None
        self.wake()

    async def _one_piece(self, work: _Work) -> None:
        begin = self._clock()
        try:
            more = await asyncio.get_running_loop().run_in_executor(self._threads, work.piece)
        except Exception as error:
            if not work.done.done():
                work.done.set_exception(error)
            return
        end = self._clock()
        rest_s = SELDOM_EVERY_S if work.seldom else REST * (end - begin)
        self._next_piece_s[work.seldom] = end + rest_s
        # the last session may leave meanwhile, and then nobody else wakes the worker
        asyncio.get_running_loop().call_later(rest_s, self.wake)
        if not more and not work.done.done():
            work.done.set_result(None)


def _joined(parts: Sequence[PictureResult]) -> PictureResult:
    """The parts of one job, in order; a stage's time is the sum of its parts'."""
    stages_s: dict[str, float] = {}
    for part in parts:
        for stage, seconds in part.stages_s.items():
            stages_s[stage] = stages_s.get(stage, 0.0) + seconds
    return PictureResult(tuple(picture for part in parts for picture in part.pictures), stages_s)
