"""Batches of any size become batches of five sizes, and every row comes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk.engines.buckets import BUCKETS, BucketRunner, bucket_of, buckets_up_to, cuts


class Doubler:
    """A runner whose decoder doubles, and that notes what it was given."""

    concurrent, batch = False, 8

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def run(self, graph, inputs, tuned=None):
        self.seen.append((graph, len(inputs["a"])))
        return [inputs["a"] * 2, inputs["b"]]


@given(st.integers(1, 70))
def test_every_row_comes_back_from_buckets_alone(count):
    runner = Doubler()
    rows = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    doubled, same = BucketRunner(runner).run("decode", {"a": rows, "b": rows[:, :1]})
    np.testing.assert_array_equal(doubled, rows * 2)
    np.testing.assert_array_equal(same, rows[:, :1])
    assert {size for _, size in runner.seen} <= set(BUCKETS)
    assert sum(size for _, size in runner.seen) < 2 * count + 1


def test_other_graphs_are_left_alone():
    runner = Doubler()
    BucketRunner(runner).run("encode", {"a": np.zeros((3, 1)), "b": np.zeros(3)})
    assert runner.seen == [("encode", 3)]
    wrapped = BucketRunner(runner)
    assert (wrapped.concurrent, wrapped.batch) == (False, 8)


def test_sizes():
    assert [bucket_of(count) for count in (1, 2, 3, 5, 9, 16)] == [1, 2, 4, 8, 16, 16]
    with pytest.raises(StopIteration):
        bucket_of(17)
    assert buckets_up_to(0) == (1,)
    assert buckets_up_to(3) == (1, 2, 4)
    assert buckets_up_to(1000) == BUCKETS
    assert [(cut.start, cut.stop) for cut in cuts(35)] == [(0, 16), (16, 32), (32, 35)]
