"""What a call's observations say: frame rate, gaps, delay, skew (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from clients.headless.testcard import PICTURE_S, Pairing, pair_events

MAX_DELAY_S = 5.0
MAX_SKEW_S = 0.6


@dataclass(frozen=True, slots=True)
class Flow:
    """fps: pictures per second of arrival; gaps: pictures missing from the media timeline.

    stalls: arrivals more than two pictures apart; longest_stall_ms: the longest time between two arrivals.
    """

    frames: int
    fps: float
    gaps: int
    stalls: int
    longest_stall_ms: float


def flow(media_s: Sequence[float], arrived_s: Sequence[float]) -> Flow:
    """Describe the pictures of a call by their media and arrival times."""
    count = len(media_s)
    if count < 2:
        return Flow(count, 0.0, 0, 0, 0.0)
    steps = [b - a for a, b in pairwise(media_s)]
    waits = [b - a for a, b in pairwise(arrived_s)]
    gaps = sum(max(0, round(step / PICTURE_S) - 1) for step in steps)
    stalls = sum(wait > 2.5 * PICTURE_S for wait in waits)
    span = arrived_s[-1] - arrived_s[0]
    return Flow(
        count, round((count - 1) / span, 2) if span > 0 else 0.0, gaps, stalls, round(max(waits) * 1000, 1)
    )


@dataclass(frozen=True, slots=True)
class Skew:
    """Picture minus sound, ms (positive: the picture is late); median over ``pairs`` flash-and-click pairs.

    arrival_ms: by the arrival of the decoded media, no time stamps involved. rtcp_ms: by the sender's RTCP
    clock, which a browser uses to align the two; None before reports came for both.
    """

    arrival_ms: float | None
    rtcp_ms: float | None
    pairs: int


def skew(
    flashes_s: Sequence[float], clicks_s: Sequence[float],
    flashes_ntp_s: Sequence[float | None], clicks_ntp_s: Sequence[float | None],
) -> Skew:  # fmt: skip
    """Compare flashes with clicks as received (design: a picture stands for the middle of its 40 ms).

    A click falls anywhere in its picture's 40 ms, so one pair is known to ±20 ms only; the click train visits
    all phases evenly and the median over a train of some ten clicks is good to a few milliseconds.
    """
    pairing = pair_events(clicks_s, flashes_s, -MAX_SKEW_S, MAX_SKEW_S)
    arrival = [flashes_s[f] + PICTURE_S / 2 - clicks_s[c] for c, f in pairing.pairs]
    rtcp = []
    for c, f in pairing.pairs:
        flash, click = flashes_ntp_s[f], clicks_ntp_s[c]
        if flash is not None and click is not None:
            rtcp.append(flash + PICTURE_S / 2 - click)
    return Skew(_median_ms(arrival), _median_ms(rtcp), len(arrival))


def delays(sent_s: Sequence[float], shown_s: Sequence[float]) -> tuple[list[float], Pairing]:
    """Milliseconds from each captured click to the arrival of its flash, and the pairing."""
    pairing = pair_events(sent_s, shown_s, 0.0, MAX_DELAY_S)
    return [1000 * (shown_s[e] - sent_s[c]) for c, e in pairing.pairs], pairing


def _median_ms(values_s: Sequence[float]) -> float | None:
    return round(1000 * median(values_s), 1) if values_s else None
