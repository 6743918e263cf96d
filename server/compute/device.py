"""How many engine calls this machine makes at once, of how many threads each, and what batches need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mytalk.types import Job, JobResult
from server.actors.cast import Cast
from server.compute.worker import Customer, DevicePlan

MOST_LANES = 16  # beyond it, Python's own lock is what limits


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lanes_and_threads(lanes: int | None, threads: int | None, available: float) -> tuple[int, int]:
    """Engine calls at the same time, and CPU threads of each, from what was asked for (None: choose).

    One thread for each call and as many calls as cores: two threads in one call spend part of their time on
    waiting for each other, and leave drawing and pasting to one of them (docs/benchmarks.md has the figures).
    """
    whole = max(1, int(available))  # several processes may have less than a core each
    if lanes is None:
        lanes = max(1, min(MOST_LANES, whole // (threads or 1)))
    return lanes, threads or max(1, whole // lanes)


class Device:
    """The plan of the worker, and the threads that draw and paste for batches."""

    def __init__(self, cast: Cast, lanes: int) -> None:
        self._cast = cast
        self._helpers = ThreadPoolExecutor(lanes, thread_name_prefix="draw") if cast.batch > 1 else None
        self.plan = DevicePlan(lanes, cast.batch, self._together)

    def close(self) -> None:
        """Let go of the threads; idempotent."""
        if self._helpers is not None:
            self._helpers.shutdown(wait=False, cancel_futures=True)

    def _together(self, tasks: Sequence[tuple[Customer, Job]]) -> list[JobResult]:
        assert self._helpers is not None
        rendered = [(customer.renderer, job) for customer, job in tasks]
        return self._cast.execute_together(rendered, self._helpers.map)
