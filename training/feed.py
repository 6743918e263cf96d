"""Batches made ahead by threads, in an order that is a function of (seed, rank, number) alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

import numpy as np

B = TypeVar("B")


def batch_random(seed: int, rank: int, number: int) -> np.random.Generator:
    """All that is random in the making of one batch: so a run that was cut goes on with the very batches."""
    return np.random.default_rng((seed, rank, number))


class Feed(Generic[B]):
    """Batches ``first``, ``first + 1``, ... of one process; at most ``workers`` + 2 are made or waiting.

    A context manager: leaving it stops the threads. An error in ``make`` is raised by ``take``.
    """

    def __init__(
        self, make: Callable[[np.random.Generator], B], seed: int, rank: int, first: int, workers: int
    ) -> None:
        self.make, self.seed, self.rank, self.number = make, seed, rank, first
        self.depth = workers + 2
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        self.waiting: deque[Future[B]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self) -> None:
        while len(self.waiting) < self.depth:
            random = batch_random(self.seed, self.rank, self.number)
            self.waiting.append(self.pool.submit(self.make, random))
            self.number += 1

    def take(self) -> B:
        """The next batch; waits until it is made."""
        self._fill()
        batch = self.waiting.popleft().result()
        self._fill()
        return batch
