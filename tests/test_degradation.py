"""Overload: the stated order down, patience on the way back, no flapping."""

from __future__ import annotations

from itertools import pairwise

import pytest

from server.compute.degradation import (
    BAD_RUN,
    CHANGES,
    GOOD_RUN,
    LEVELS,
    LONGEST_RUN,
    RELAPSE_S,
    Degradation,
    Second,
    verdict,
)

BAD = {"spoken": 100, "late": 20, "busy_share": 1.0}
GOOD = {"spoken": 100, "late": 0, "busy_share": 0.4}
BETWEEN = {"spoken": 100, "late": 0, "busy_share": 0.9}


class Clock:
    def __init__(self) -> None:
        self.policy, self.now = Degradation(), 0.0

    def seconds(self, count: int, figures: dict[str, float]) -> list[str]:
        """Names of the levels that were entered."""
        entered = []
        for _ in range(count):
            self.now += 1.0
            level = self.policy.observe(self.now, **figures)  # type: ignore[arg-type]
            if level is not None:
                entered.append(level.name)
        return entered


def test_the_table_knows_every_second() -> None:
    assert set(CHANGES) == {(second, long) for second in Second for long in (False, True)}


@pytest.mark.parametrize(
    ("spoken", "late", "busy", "second"),
    [
        (100, 0, 0.2, Second.GOOD),
        (0, 0, 0.0, Second.GOOD),
        (100, 0, 0.9, Second.BETWEEN),
        (25, 2, 0.2, Second.BETWEEN),
        (25, 3, 0.2, Second.BAD),
        (500, 9, 0.2, Second.BETWEEN),
        (500, 11, 0.2, Second.BAD),
    ],
)
def test_what_a_second_was_like(spoken: int, late: int, busy: float, second: Second) -> None:
    assert verdict(spoken, late, busy) is second


def test_overload_takes_the_stated_order_and_recovery_goes_back_through_it() -> None:
    clock = Clock()
    assert clock.seconds(20, BAD) == ["larger hop", "fewer steps", "repeated pictures"]
    assert clock.policy.level is LEVELS[-1]
    assert clock.seconds(6 * GOOD_RUN, GOOD) == ["fewer steps", "larger hop", "full"]
    assert clock.policy.level is LEVELS[0]


def test_every_level_keeps_what_the_one_before_gave_up() -> None:
    for before, after in pairwise(LEVELS):
        assert after.hop_factor >= before.hop_factor
        assert after.fewest_steps >= before.fewest_steps
        assert after.picture_every >= before.picture_every
        assert after != before


def test_one_bad_second_and_a_device_that_is_only_just_enough_change_nothing() -> None:
    clock = Clock()
    for _ in range(5):
        assert clock.seconds(BAD_RUN - 1, BAD) == []
        assert clock.seconds(1, BETWEEN) == []
    clock.seconds(BAD_RUN, BAD)
    assert clock.seconds(500, BETWEEN) == []
    assert clock.policy.index == 1


def test_who_relapses_waits_longer_up_to_a_bound() -> None:
    clock, waits = Clock(), []
    clock.seconds(BAD_RUN, BAD)
    for _ in range(8):
        waited = 0
        while not clock.seconds(1, GOOD):
            waited += 1
        waits.append(waited + 1)
        assert clock.seconds(BAD_RUN, BAD) == ["larger hop"]
    assert waits[0] == GOOD_RUN
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_RUN


def test_patience_comes_back_after_a_long_good_time() -> None:
    clock = Clock()
    clock.seconds(BAD_RUN, BAD)
    clock.seconds(GOOD_RUN, GOOD)
    clock.seconds(BAD_RUN, BAD)  # a relapse
    clock.seconds(2 * GOOD_RUN, GOOD)
    clock.seconds(int(RELAPSE_S) + 5, GOOD)
    clock.seconds(BAD_RUN, BAD)
    assert clock.seconds(GOOD_RUN, GOOD) == ["full"]
