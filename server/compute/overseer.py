"""Looks at the load once a second: who still fits, what gives way (``degradation``), when to tidy up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from typing import Protocol

from server.compute.admission import Admission, Costs, Counters
from server.compute.degradation import Degradation, Level
from server.compute.worker import Worker
from server.metrics import Metrics

logger = logging.getLogger(__name__)
EVERY_S = 1.0


class Guest(Protocol):
    """A session, as far as load goes."""

    def is_talking(self, now: float) -> bool:
        """Whether it counts as talking (see ``admission``)."""
        ...

    def degrade(self, level: Level) -> None:
        """Serve it at this level from now on."""
        ...


class Overseer:
    """Measures what sessions cost, and decides for all of them. Everything runs on the event loop."""

    def __init__(
        self,
        worker: Worker,
        metrics: Metrics,
        admission: Admission,
        clock: Callable[[], float],
        *,
        preparing: Callable[[], bool],
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        """preparing: whether actors are being prepared, which is not what sessions cost.

        tidy: called once when nobody is left and nothing is being prepared; it may take some 20 ms.
        """
        self._preparing, self._tidy, self._tidied = preparing, tidy, False
        self._worker, self._metrics, self._admission, self._clock = worker, metrics, admission, clock
        self._costs = Costs()
        self._degradation = Degradation()
        self._before = Counters()
        self._late_before = 0
        self._before_s = clock()
        self._task: asyncio.Task[None] | None = None

    @property
    def level(self) -> Level:
        """What sessions get now."""
        return self._degradation.level

    def start(self, guests: Callable[[], Collection[Guest]]) -> None:
        """Begin to watch; call once, on the event loop. guests: the sessions that are open."""
        self._task = asyncio.create_task(self._run(guests), name="overseer")

    async def close(self) -> None:
        """Stop; idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self, guests: Callable[[], Collection[Guest]]) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self.look(guests(), time.process_time())

    def look(self, guests: Collection[Guest], process_cpu_s: float) -> None:
        """Take the figures of the last second; process_cpu_s: processor time of this process so far."""
        now, sent = self._clock(), self._metrics.sent
        counters = Counters(self._worker.busy_s, self._worker.cpu_s, process_cpu_s, sent.spoken, sent.slices)
        self._costs.observe(counters, disturbed=self._preparing())
        passed_s = max(1e-3, now - self._before_s)
        busy_share = (counters.busy_s - self._before.busy_s) / passed_s / self._admission.lanes
        level = self._degradation.observe(
            now,
            spoken=counters.spoken - self._before.spoken,
            late=sent.late - self._late_before,
            busy_share=busy_share,
        )
        self._before, self._late_before, self._before_s = counters, sent.late, now
        talking = sum(guest.is_talking(now) for guest in guests)
        self._metrics.load.set(self._admission.used(self._costs, talking, len(guests) - talking))
        if level is not None:
            logger.warning("load: sessions are served at level %d, %s", self._degradation.index, level.name)
            self._metrics.degradation.set(self._degradation.index)
            for guest in guests:
                guest.degrade(level)
        self._tidy_up(busy=bool(guests) or self._preparing())

    def _tidy_up(self, busy: bool) -> None:
        if not busy and not self._tidied:
            self._tidy()
        self._tidied = not busy

    def refusal(self, guests: Collection[Guest], being_built: int) -> str | None:
        """One line on why nobody else is let in; None when one more fits. being_built: count as talking."""
        now = self._clock()
        talking = sum(guest.is_talking(now) for guest in guests)
        degraded = self._degradation.index > 0
        return self._admission.refusal(
            self._costs, talking + being_built, len(guests) - talking, degraded=degraded
        )
