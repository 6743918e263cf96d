"""What gives way when the device cannot keep up, and when it comes back: pure, ``now`` is an argument.

Sound never waits and is never touched. In this order, each level with those before it:

    0 full               every session as it was asked for
    1 larger hop         motion is made for twice as many frames at once, less work for each: of speech pushed
                         from now on, and of a live microphone once its delay has grown for it (0.5 % slower)
    2 fewer steps        motion takes the fewest diffusion steps that the weights have
    3 repeated pictures  every second picture is made and shown twice: 12.5 pictures a second, evenly

A level is left for the next one after ``BAD_RUN`` bad seconds in a row, and for the one before after a run of
good seconds, which is longer after each relapse. A second is bad when pictures were late, and good when none
was and the device would also bear the level before; a second in between changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

BAD_RUN = 2  # seconds
GOOD_RUN = 8  # seconds, at first
LONGEST_RUN = 128  # seconds, after relapses
RELAPSE_S = 30.0  # to degrade again so soon after a recovery means that it came too early
LATE_SHARE = 0.02  # of a second's spoken pictures; half the limit of benchmarks/load.py would be one in fifty
FEW_LATE = 2  # pictures of one second that may be late by chance
ROOMY = 0.7  # share of the device in use from which nothing is given back


class Second(Enum):
    """What a second was like."""

    BAD = "bad"
    GOOD = "good"
    BETWEEN = "between"


@dataclass(frozen=True, slots=True)
class Level:
    """What sessions get. hop_factor: times the hop asked for. picture_every: one of so many is made."""

    name: str
    hop_factor: int = 1
    fewest_steps: bool = False
    picture_every: int = 1


LEVELS = (
    Level("full"),
    Level("larger hop", 2),
    Level("fewer steps", 2, fewest_steps=True),
    Level("repeated pictures", 2, fewest_steps=True, picture_every=2),
)

# (second, is the run of such seconds long enough) → change of the level, within LEVELS
CHANGES = {
    (Second.BAD, True): +1,
    (Second.BAD, False): 0,
    (Second.GOOD, True): -1,
    (Second.GOOD, False): 0,
    (Second.BETWEEN, True): 0,
    (Second.BETWEEN, False): 0,
}


class Degradation:
    """The level at which all sessions are served. Call ``observe`` once a second."""

    def __init__(self) -> None:
        self.index = 0
        self._second = Second.BETWEEN
        self._run = 0
        self._good_run = GOOD_RUN
        self._recovered_s: float | None = None

    @property
    def level(self) -> Level:
        """What sessions get now."""
        return LEVELS[self.index]

    def observe(self, now: float, *, spoken: int, late: int, busy_share: float) -> Level | None:
        """Take one second's figures; returns the new level when it changes.

        spoken, late: pictures of all sessions. busy_share: of the device's time (0..1). now: monotonic.
        """
        second = verdict(spoken, late, busy_share)
        self._run = self._run + 1 if second is self._second else 1
        self._second = second
        needed = BAD_RUN if second is Second.BAD else self._good_run
        change = CHANGES[second, self._run >= needed]
        index = max(0, min(len(LEVELS) - 1, self.index + change))
        if index == self.index:
            return None
        self._run = 0
        if index < self.index:
            self._recovered_s = now
        elif self._recovered_s is not None and now - self._recovered_s <= RELAPSE_S:
            self._good_run = min(LONGEST_RUN, 2 * self._good_run)
        elif self.index == 0:
            self._good_run = GOOD_RUN
        self.index = index
        return self.level


def verdict(spoken: int, late: int, busy_share: float) -> Second:
    """What a second with so many pictures was like."""
    if late > max(FEW_LATE, LATE_SHARE * spoken):
        return Second.BAD
    return Second.GOOD if late == 0 and busy_share <= ROOMY else Second.BETWEEN
