"""Who is let in: by measured cost, with fake costs and counters."""

from __future__ import annotations

import pytest

from server.compute.admission import MOST_USED, Admission, Costs, Counters

TWO_CORES = Admission(lanes=2, cores=2)


def costs(busy_s: float = 0.0, cpu_s: float = 0.0, slice_s: float = 0.0) -> Costs:
    made = Costs()
    made.busy_s, made.cpu_s, made.slice_s = busy_s, cpu_s, slice_s
    return made


def room(admission: Admission, costs: Costs, watching: int = 0) -> int:
    """How many talking sessions are let in, one after the other."""
    talking = 0
    while talking < 1000 and admission.refusal(costs, talking, watching, degraded=False) is None:
        talking += 1
    return talking


def test_before_anything_is_measured_nobody_is_refused() -> None:
    assert TWO_CORES.used(Costs(), 100, 100) == 0.0
    assert room(TWO_CORES, Costs()) == 1000


def test_lanes_decide_when_jobs_are_long() -> None:
    # 20 ms of a lane for each of 25 pictures a second: half a lane for a session
    assert room(TWO_CORES, costs(busy_s=0.020)) == int(MOST_USED * 2 / 0.5)


def test_cores_decide_when_sending_is_dear() -> None:
    dear = costs(busy_s=0.010, cpu_s=0.010, slice_s=0.010)
    assert room(TWO_CORES, dear) == int(MOST_USED * 2 / 0.5)
    assert room(Admission(lanes=2, cores=8), dear) == int(MOST_USED * 2 / 0.25)


def test_who_looks_on_costs_only_what_a_slice_costs() -> None:
    cheap = costs(busy_s=0.020, cpu_s=0.018, slice_s=0.0005)
    alone = room(TWO_CORES, cheap)
    assert room(TWO_CORES, cheap, watching=10) == alone
    assert room(TWO_CORES, cheap, watching=100) < alone


def test_the_first_to_talk_is_let_in_on_a_slow_machine_and_nobody_while_degraded() -> None:
    slow = costs(busy_s=0.5)
    assert TWO_CORES.refusal(slow, 0, 5, degraded=True) is None
    assert "2 sessions that talk would take 1250 %" in str(TWO_CORES.refusal(slow, 1, 0, degraded=False))
    assert "already take more" in str(TWO_CORES.refusal(costs(), 1, 0, degraded=True))


def test_costs_follow_the_counters() -> None:
    measured = Costs()
    measured.observe(Counters(10.0, 8.0, 100.0, 0, 0))  # of before anybody talked
    assert measured.busy_s is None
    measured.observe(Counters(10.5, 8.4, 100.6, 25, 100))
    assert measured.busy_s == pytest.approx(0.020)
    assert measured.cpu_s == pytest.approx(0.016)
    assert measured.slice_s == pytest.approx(0.002)
    measured.observe(Counters(10.9, 8.8, 101.2, 30, 200))  # five pictures tell nothing about talking
    assert measured.busy_s == pytest.approx(0.020)
    before = measured.slice_s
    measured.observe(Counters(10.9, 8.8, 111.2, 30, 300), disturbed=True)  # an actor was prepared
    assert measured.slice_s == before
    measured.observe(Counters(10.9, 8.8, 111.2, 30, 300))
    measured._before = counters = Counters(10.9, 8.8, 101.2, 30, 200)
    for second in range(1, 60):
        sums_s = (10.9 + second, 8.8 + second, 101.2 + 2 * second)
        counters = Counters(*sums_s, 30 + 25 * second, 200 + 25 * second)
        measured.observe(counters)
    assert measured.busy_s == pytest.approx(0.040, rel=0.01)
    assert measured.slice_s == pytest.approx(0.040, rel=0.01)
