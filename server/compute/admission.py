"""Whether one more session fits, from what sessions were measured to cost: pure, ``now`` is an argument.

A session counts as talking from its opening until it has been silent for ``SILENT_S``. It takes the lanes'
time for motion, drawing, decoding and pasting, and processor time for these, encoding, sending and the event
loop. One that only looks on takes its share of the last three, which is next to nothing. A new one must fit
as a talking one. If many who looked on begin to talk at once, the sessions degrade
(``degradation``), and nobody else is let in until they have recovered.
"""

from __future__ import annotations

from dataclasses import dataclass

from mytalk.clock import FPS

SILENT_S = 10.0
MOST_USED = 0.9  # share of lanes and cores that may be planned for; the rest is for what comes unevenly
NEW = 0.2  # weight of a new figure in the running means
FEWEST_PICTURES = 10  # spoken in an interval, for it to tell what talking costs


@dataclass(frozen=True, slots=True)
class Counters:
    """Sums since the start. busy_s: lanes' seconds for sessions' jobs. lanes_cpu_s: their processor time.

    process_cpu_s: of the whole process. spoken, slices: slices that left with speech, and all of them.
    """

    busy_s: float = 0.0
    lanes_cpu_s: float = 0.0
    process_cpu_s: float = 0.0
    spoken: int = 0
    slices: int = 0


class Costs:
    """Running means of what one spoken picture and one slice take; None until they have been measured."""

    def __init__(self) -> None:
        self.busy_s: float | None = None  # of a lane, for a spoken picture
        self.cpu_s: float | None = None  # of the lanes' processor time, for a spoken picture
        self.slice_s: float | None = None  # of processor time besides, for every slice
        self._before = Counters()

    def observe(self, now: Counters, *, disturbed: bool = False) -> None:
        """Take the counters of this moment; call it about once a second.

        disturbed: the process does something else, too (it prepares an actor), which no session costs.
        """
        before, self._before = self._before, now
        spoken, slices = now.spoken - before.spoken, now.slices - before.slices
        lanes_cpu_s = now.lanes_cpu_s - before.lanes_cpu_s
        if spoken >= FEWEST_PICTURES:
            self.busy_s = _mean(self.busy_s, (now.busy_s - before.busy_s) / spoken)
            self.cpu_s = _mean(self.cpu_s, lanes_cpu_s / spoken)
        if slices >= FEWEST_PICTURES and not disturbed:
            besides_s = now.process_cpu_s - before.process_cpu_s - lanes_cpu_s
            self.slice_s = _mean(self.slice_s, max(0.0, besides_s) / slices)


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + NEW * (value - mean)


@dataclass(frozen=True, slots=True)
class Admission:
    """What there is. lanes: engine calls at once. cores: this process's share of the cores."""

    lanes: int
    cores: float

    def used(self, costs: Costs, talking: int, watching: int) -> float:
        """Share of lanes or cores, the larger one, that so many sessions take; 0 before it was measured."""
        busy = talking * FPS * (costs.busy_s or 0.0) / self.lanes
        cpu_s = talking * (costs.cpu_s or 0.0) + (talking + watching) * (costs.slice_s or 0.0)
        return max(busy, FPS * cpu_s / self.cores)

    def refusal(self, costs: Costs, talking: int, watching: int, *, degraded: bool) -> str | None:
        """One line on why no other session is let in; None when it fits. The first to talk is always let in.

        talking, watching: sessions that are open. degraded: whether they get less than they asked for.
        """
        if talking == 0:
            return None
        if degraded:
            return f"the {talking} sessions that talk already take more than this machine has"
        share = self.used(costs, talking + 1, watching)
        if share <= MOST_USED:
            return None
        return f"{talking + 1} sessions that talk would take {100 * share:.0f} % of this machine"
