"""Computations side by side: what each gets is what it would have got alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mytalk.engines import default_bundle, load_engine
from mytalk.engines.lockstep import Arrays, run_in_lockstep
from mytalk.errors import EngineFailed
from tests.test_onnx_engine import job


class Doubling:
    """Doubles ``a``; notes graphs and rows."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, graph: str, inputs: Arrays) -> list[Any]:
        self.calls.append((graph, len(inputs["a"])))
        return [inputs["a"] * 2]


def climb(start: float, times: int, width: int = 3, graph: str = "g") -> Iterator[Any]:
    value = np.full((1, width), start)
    for _ in range(times):
        (value,) = yield graph, {"a": value}
    return value


def test_results_are_in_order_and_like_calls_are_shared_in_powers_of_two() -> None:
    run = Doubling()
    found = run_in_lockstep([climb(1.0, 2), climb(2.0, 1), climb(3.0, 3)], run, 8)
    assert [float(each[0, 0]) for each in found] == [4.0, 4.0, 24.0]
    assert [each.shape for each in found] == [(1, 3)] * 3
    assert run.calls == [("g", 4), ("g", 2), ("g", 1)]


def test_other_shapes_and_graphs_get_calls_of_their_own_and_calls_have_a_bound() -> None:
    run = Doubling()
    run_in_lockstep([climb(1.0, 1), climb(1.0, 1, width=5), climb(1.0, 1, graph="h")], run, 8)
    assert sorted(run.calls) == [("g", 1), ("g", 1), ("h", 1)]
    run = Doubling()
    run_in_lockstep([climb(float(i), 1) for i in range(5)], run, 2)
    assert run.calls == [("g", 2), ("g", 2), ("g", 1)]
    run = Doubling()
    run_in_lockstep([climb(float(i), 1) for i in range(3)], run, 1)
    assert run.calls == [("g", 1)] * 3


def test_nothing_to_do_and_a_failure() -> None:
    assert run_in_lockstep([], Doubling(), 8) == []
    assert run_in_lockstep([climb(1.0, 0)], Doubling(), 8)[0].shape == (1, 3)

    def broken(graph: str, inputs: Arrays) -> list[Any]:
        raise EngineFailed("broken")

    with pytest.raises(EngineFailed):
        run_in_lockstep([climb(1.0, 1), climb(2.0, 1)], broken, 8)


def test_motion_in_batches_is_motion_alone_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that says it is fast at batches (a card) gets them: the shipped weights, in torch."""
    engine: Any = load_engine("torch-fp32", default_bundle(), 1)
    spec = engine.spec
    shown = {
        "known": np.zeros((3, spec.compact, 3), np.float32),
        "known_upper": np.zeros((3, spec.upper), np.float32),
        "known_log_mel": np.full((spec.mel_frames, 80), -6, np.float32),
    }
    jobs = [job(engine, 0), job(engine, 1, position=3, **shown), job(engine, 2, hop=1), job(engine, 3)]
    alone = [engine.motion([each])[0] for each in jobs]
    rows: list[int] = []
    run = engine._runner.run

    def noting(graph: str, inputs: Arrays) -> Any:
        if graph != "hear":
            rows.append(len(inputs["noise"]))
        return run(graph, inputs)

    monkeypatch.setattr(engine._runner, "batch", 8)
    monkeypatch.setattr(engine._runner, "run", noting)
    together = engine.motion(jobs)
    assert max(rows) == 4
    assert len(rows) < 5
    for one, other in zip(alone, together, strict=True):
        assert one.displacement.shape == other.displacement.shape
        np.testing.assert_allclose(other.displacement, one.displacement, atol=2e-5)
        np.testing.assert_allclose(other.state.keys, one.state.keys, atol=1e-4)
        assert other.state.known == one.state.known
