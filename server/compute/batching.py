"""Which jobs of several sessions share an engine call: pure, decided by deadlines and measured durations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mytalk.engines.buckets import BUCKETS, bucket_of
from mytalk.render.together import rows_of
from mytalk.types import Job

NEW = 0.2  # weight of a new duration in the running mean
MOST = BUCKETS[-1]  # rows; larger calls are counted with these


def _bucket(rows: int) -> int:
    return bucket_of(max(1, min(MOST, rows)))


@dataclass(frozen=True, eq=False)
class Waiting:
    """A job that could run now. deadline_s: when its result is due (monotonic seconds)."""

    job: Job
    deadline_s: float


@dataclass
class Durations:
    """How long engine calls take, by kind of job and bucket: running means, seconds."""

    _mean_s: dict[tuple[type, int], float] = field(default_factory=dict)

    def took(self, jobs: Sequence[Job], seconds: float) -> None:
        """One measured call."""
        key = (type(jobs[0]), _bucket(sum(map(rows_of, jobs))))
        before = self._mean_s.get(key, seconds)
        self._mean_s[key] = before + NEW * (seconds - before)

    def expected_s(self, kind: type, rows: int) -> float:
        """What a call will take: as measured, else in proportion to a smaller one, else nothing."""
        size = _bucket(rows)
        for smaller in (size >> shift for shift in range(size.bit_length())):
            if (kind, smaller) in self._mean_s:
                return self._mean_s[kind, smaller] * size / smaller
        return 0.0


def choose(waiting: Sequence[Waiting], durations: Durations, most_rows: int, now: float) -> list[Waiting]:
    """The jobs of the next call: the most urgent one and others of its kind, the earliest deadline first.

    Nobody is waited for. Others join as long as the call is expected to end before the most urgent deadline;
    when even that job alone comes too late, the device is behind, and the fullest call catches up soonest.
    At most ``most_rows`` rows, but always one whole job.
    """
    ordered = sorted(waiting, key=lambda each: each.deadline_s)
    first = ordered[0]
    kind, rows, chosen = type(first.job), rows_of(first.job), [first]
    behind = now + durations.expected_s(kind, rows) > first.deadline_s
    for other in ordered[1:]:
        more = rows + rows_of(other.job)
        if type(other.job) is not kind or more > most_rows:
            continue
        if not behind and now + durations.expected_s(kind, more) > first.deadline_s:
            break
        chosen.append(other)
        rows = more
    return chosen
