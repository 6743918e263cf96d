"""Several computations side by side, whose like graph calls are made as one: how motion is batched.

A computation is a generator: it yields what it wants of a graph (its name, and inputs whose first axis is one
row) and is sent the outputs, until it returns its result. It need not know that others run beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
Outputs = list[npt.NDArray[Any]]
Result = TypeVar("Result")
Computation = Generator[tuple[str, Arrays], Outputs, Result]


def run_in_lockstep(
    computations: Sequence[Computation[Result]], run: Callable[[str, Arrays], Outputs], most_rows: int
) -> list[Result]:
    """The results of all, in order. Calls of the same graph and shapes share a call of at most ``most_rows``.

    A shared call has a power of two of rows (its last row is repeated up to that), so that what is recorded
    for one shape at a time meets few of them. most_rows 1: every call is made as if its computation were
    alone. Raises what ``run`` raises; all computations are then given up.
    """
    results: dict[int, Result] = {}
    asked: dict[int, tuple[str, Arrays]] = {}

    def go_on(place: int, outputs: Outputs | None) -> None:
        try:
            asked[place] = computations[place].send(outputs)  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            results[place] = end.value

    for place in range(len(computations)):
        go_on(place, None)
    while asked:
        like: dict[Any, list[int]] = {}
        for place, (graph, inputs) in asked.items():
            like.setdefault((graph, *((name, a.shape) for name, a in inputs.items())), []).append(place)
        now, asked = asked, {}
        for places in like.values():
            for first in range(0, len(places), most_rows):
                some = places[first : first + most_rows]
                outputs = _together([now[place] for place in some], run)
                for row, place in enumerate(some):
                    go_on(place, [output[row : row + 1] for output in outputs])
    return [results[place] for place in range(len(computations))]


def _together(calls: Sequence[tuple[str, Arrays]], run: Callable[[str, Arrays], Outputs]) -> Outputs:
    graph, inputs = calls[0]
    if len(calls) == 1:
        return run(graph, inputs)
    rows = [given for _, given in calls]
    rows += [rows[-1]] * ((1 << (len(rows) - 1).bit_length()) - len(rows))
    return run(graph, {name: np.concatenate([given[name] for given in rows]) for name in inputs})
