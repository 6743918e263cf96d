"""Who shares an engine call: by deadline, never at the cost of the most urgent one."""

from __future__ import annotations

import pytest

from mytalk.types import FrameSpec, MotionJob, PictureJob
from server.compute.batching import Durations, Waiting, choose
from tests.fakes import FakeEngine
from tests.test_fallback import some_job


def pictures(count: int) -> PictureJob:
    return PictureJob(0, tuple(FrameSpec(i, None) for i in range(count)))


def hop() -> MotionJob:
    return some_job(FakeEngine())


def waiting(*jobs: tuple[object, float]) -> list[Waiting]:
    return [Waiting(job, deadline_s) for job, deadline_s in jobs]  # type: ignore[arg-type]


def test_the_most_urgent_leads_and_others_of_its_kind_join_in_order() -> None:
    given = waiting((pictures(2), 3.0), (hop(), 2.0), (pictures(2), 1.0), (pictures(2), 2.5))
    assert choose(given, Durations(), 4, 0.0) == [given[2], given[3]]
    assert choose(given, Durations(), 8, 0.0) == [given[2], given[3], given[0]]
    assert choose(given[:2], Durations(), 8, 0.0) == [given[1]]


def test_a_job_larger_than_the_batch_goes_alone_and_a_small_one_fills_a_gap() -> None:
    given = waiting((pictures(3), 1.0), (pictures(2), 2.0), (pictures(1), 3.0))
    assert choose(given, Durations(), 2, 0.0) == [given[0]]
    assert choose(given, Durations(), 4, 0.0) == [given[0], given[2]]


def test_an_urgent_job_is_not_delayed_by_a_fuller_call() -> None:
    durations = Durations()
    durations.took([pictures(2)], 0.010)
    durations.took([pictures(4)], 0.020)
    given = waiting((pictures(2), 0.015), (pictures(2), 0.5))
    assert choose(given, durations, 8, 0.0) == [given[0]], "together they would end at 20 ms"
    assert choose(given, durations, 8, -0.010) == given
    assert choose(given, durations, 8, 0.010) == given, "too late already: what catches up soonest"


def test_durations_follow_what_is_measured_and_guess_upwards() -> None:
    durations = Durations()
    assert durations.expected_s(PictureJob, 4) == 0.0
    durations.took([pictures(2)], 0.010)
    assert durations.expected_s(PictureJob, 8) == pytest.approx(0.040)
    assert durations.expected_s(MotionJob, 1) == 0.0
    for _ in range(50):
        durations.took([pictures(2)], 0.020)
    assert durations.expected_s(PictureJob, 2) == pytest.approx(0.020, rel=0.01)
    durations.took([pictures(2)] * 100, 0.5)
    assert durations.expected_s(PictureJob, 16) == pytest.approx(0.5)
