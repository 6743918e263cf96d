"""Batch sizes that are prepared ahead: a batch in between is padded, a larger one is cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mytalk.actors.tuned import TunedDecoder
from mytalk.engines.graphs import Arrays, GraphRunner

BUCKETS = (1, 2, 4, 8, 16)
CARD_BATCH = 8  # pictures of one call on a card, which is hardly busier with eight than with one


def bucket_of(count: int) -> int:
    """The smallest bucket that holds ``count`` rows (1..16)."""
    return next(size for size in BUCKETS if size >= count)


def buckets_up_to(count: int) -> tuple[int, ...]:
    """The buckets that batches of 1..``count`` rows fall into."""
    last = bucket_of(min(max(count, 1), BUCKETS[-1]))
    return tuple(size for size in BUCKETS if size <= last)


def cuts(count: int) -> Iterator[slice]:
    """Rows 0..``count`` in pieces of at most the largest bucket."""
    for first in range(0, count, BUCKETS[-1]):
        yield slice(first, min(first + BUCKETS[-1], count))


def padded(array: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """The array with its last row repeated up to ``size`` rows; itself where it has them already."""
    missing = size - len(array)
    if missing == 0:
        return array
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


class BucketRunner:
    """``GraphRunner`` that gives another one's ``decode`` batches of bucket sizes alone.

    What is compiled or recorded for one shape at a time (CUDA graphs, TensorRT) then meets five shapes
    and no more. The rows of a decoder do not depend on each other, so padding changes nothing.
    """

    def __init__(self, runner: GraphRunner) -> None:
        self._runner = runner
        self.concurrent, self.batch = runner.concurrent, runner.batch

    def load_decoder(self, tuned: TunedDecoder) -> None:
        """Take up other weights for ``decode``."""
        self._runner.load_decoder(tuned)

    def run(self, graph: str, inputs: Arrays, tuned: TunedDecoder | None = None) -> list[npt.NDArray[Any]]:
        """Outputs of a graph."""
        if graph != "decode":
            return self._runner.run(graph, inputs)
        made = []
        for rows in cuts(len(next(iter(inputs.values())))):
            count = rows.stop - rows.start
            size = bucket_of(count)
            given = {name: padded(array[rows], size) for name, array in inputs.items()}
            made.append([output[:count] for output in self._runner.run(graph, given, tuned)])
        return [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*made, strict=True)]
