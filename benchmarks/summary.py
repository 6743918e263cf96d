"""From the observations of all calls to the figures of the report (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from clients.headless.call import Call
from clients.headless.report import delays, flow, skew
from clients.headless.testcard import percentiles

KEYS = (
    "audio_to_picture_ms",
    "push_to_first_picture_ms",
    "slack_ms",
    "stages_ms",
    "fps",
    "late_frames_pct",
    "av_skew_ms",
    "sessions",
    "cpu_cores_used",
    "engine",
    "frame_size",
    "commit",
    "machine",
)  # stable: other tools read them


@dataclass(frozen=True, slots=True)
class CallFigures:
    """One live call. delays_ms: click captured → flash decoded; missed: clicks without a flash.

    sent_ms: click captured → first packet of the flash received.
    """

    delays_ms: tuple[float, ...]
    sent_ms: tuple[float, ...]
    missed: int
    fps: float
    frames: int
    gaps: int
    skew_ms: float | None
    skew_rtcp_ms: float | None
    size: tuple[int, int] | None
    stats: tuple[dict[str, Any], ...]


def call_figures(call: Call, clicks_s: Sequence[float]) -> CallFigures:
    """Figures of a live call; clicks_s: capture times of its clicks (monotonic seconds)."""
    seen = call.observed
    flashes = [p for p in seen.pictures if p.flash]
    shown = flow([p.media_s for p in seen.pictures], [p.arrived_s for p in seen.pictures])
    times_ms, pairing = delays(clicks_s, [f.arrived_s for f in flashes])
    apart = skew(
        [f.arrived_s for f in flashes],
        [c.played_s for c in seen.clicks],
        [call.clocks["video"].ntp_s(f.media_s) for f in flashes],
        [call.clocks["audio"].ntp_s(c.media_s) for c in seen.clicks],
    )
    sent_ms = [1000 * (flashes[f].sent_s - clicks_s[c]) for c, f in pairing.pairs]
    return CallFigures(
        tuple(times_ms),
        tuple(sent_ms),
        len(clicks_s) - len(pairing.pairs),
        shown.fps,
        shown.frames,
        shown.gaps,
        apart.arrival_ms,
        apart.rtcp_ms,
        seen.size,
        tuple(seen.stats()),
    )


def live_summary(calls: Sequence[CallFigures]) -> dict[str, Any]:
    """Everything the live part of the report says about K calls together."""
    last = [c.stats[-1] for c in calls if c.stats]
    late = sum(s.get("late_frames", 0) for s in last) + sum(c.gaps for c in calls)
    spoken = sum(s.get("speech_slices", 0) for s in last) or sum(c.frames for c in calls)
    return {
        "audio_to_picture_ms": percentiles([ms for c in calls for ms in c.delays_ms]),
        "audio_to_sent_ms": percentiles([ms for c in calls for ms in c.sent_ms]),
        "slack_ms": merge_windows([s["slack_ms"] for c in calls for s in c.stats if s.get("slack_ms")]),
        "stages_ms": merge_stages([s.get("stages_ms") or {} for c in calls for s in c.stats]),
        "fps": min((c.fps for c in calls), default=0.0),
        "late_frames_pct": round(100 * late / spoken, 3) if spoken else None,
        "av_skew_ms": _median([c.skew_ms for c in calls]),
        "av_skew_rtcp_ms": _median([c.skew_rtcp_ms for c in calls]),
        "clicks": sum(len(c.delays_ms) + c.missed for c in calls),
        "clicks_missed": sum(c.missed for c in calls),
        "missing_pictures": sum(c.gaps for c in calls),
        "frame_size": next((list(c.size) for c in calls if c.size), None),
    }


def merge_windows(windows: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """One figure from rolling windows: the median of medians, the worst of every other percentile.

    Percentiles below p50 (slack) are worst where they are smallest, those above where they are largest.
    """
    if not windows:
        return None
    merged = {}
    for name in windows[0]:
        values = [w[name] for w in windows if name in w]
        rank = float(name.removeprefix("p")) if name.removeprefix("p").isdigit() else 50.0
        merged[name] = round(median(values) if rank == 50 else min(values) if rank < 50 else max(values), 2)
    return merged


def merge_stages(messages: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float] | None]:
    """``merge_windows`` for every stage that any message names."""
    names = sorted({name for message in messages for name in message})
    return {name: merge_windows([m[name] for m in messages if m.get(name)]) for name in names}


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return round(median(known), 1) if known else None
