"""What became of every clip: report.json, tables for people, and a plot."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mytalk.clock import FPS
from training.prepare_sync import PersonOffset
from training.prepare_video import Report, write_atomically

MOST_ROWS = 40  # of the tables on the screen; report.json has all


def summary(reports: list[Report], people: list[PersonOffset]) -> dict[str, object]:
    """What ``report.json`` holds: totals, rejections by code, people with their offsets, and every clip."""
    kept = [r for r in reports if r.rejected is None]
    return {
        "kept": len(kept),
        "rejected": dict(Counter(r.rejected for r in reports if r.rejected)),
        "seconds": round(sum(r.frames for r in kept) / FPS, 2),
        "people": [
            asdict(p)
            | {
                "offset_ms": round(p.offset_ms, 1),
                "correlation": round(p.correlation, 3),
                "spread_ms": round(p.spread_ms, 1),
            }
            for p in people
        ],
        "clips": [asdict(r) for r in reports],
    }


def _plot(path: Path, reports: list[Report]) -> None:
    """Bars of what was kept and rejected, and the distribution of offsets."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), dpi=110)
    counts = Counter(r.rejected or "kept" for r in reports).most_common()
    bars = left.barh([c for c, _ in counts], [n for _, n in counts], color="#4a7fb5")
    left.bar_label(bars, padding=3)
    left.invert_yaxis()
    left.set_xlabel("clips")
    offsets = [r.offset_ms for r in reports if r.offset_ms is not None]
    right.hist(offsets, bins=40, color="#4a7fb5")
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel("sound behind picture (ms)")
    right.set_ylabel("clips")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def write_report(out: Path, reports: list[Report], people: list[PersonOffset]) -> None:
    """Write report.json and, where matplotlib is installed, report.png."""
    text = json.dumps(summary(reports, people), indent=1).encode()
    write_atomically(out / "report.json", lambda file: file.write(text))
    _plot(out / "report.png", reports)


def print_report(reports: list[Report], people: list[PersonOffset]) -> None:
    """The same as tables on the screen."""
    console = Console()
    kept = [r for r in reports if r.rejected is None]
    table = Table(title="A/V offset by person (positive: the sound is late)")
    for column in ("person", "clips", "offset ms", "correlation", "single clips off by ms", "measured"):
        table.add_column(column, justify="left" if column in ("person", "measured") else "right")
    for p in people[:MOST_ROWS]:
        how = "all clips together" if p.pooled else "clip by clip"
        table.add_row(
            p.identity,
            str(p.clips),
            f"{p.offset_ms:+.0f}",
            f"{p.correlation:.2f}",
            f"{p.spread_ms:.0f}",
            how,
        )
    console.print(table)
    if len(people) > MOST_ROWS:
        console.print(f"… and {len(people) - MOST_ROWS} more people in report.json")
    rejected = [r for r in reports if r.rejected]
    if rejected:
        table = Table(title="Rejected")
        for column in ("clip", "code", "why"):
            table.add_column(column, overflow="fold")
        for r in rejected[:MOST_ROWS]:
            table.add_row(r.name, r.rejected, r.reason)
        console.print(table)
    if len(rejected) > MOST_ROWS:
        console.print(f"… and {len(rejected) - MOST_ROWS} more in report.json")
    minutes = sum(r.frames for r in kept) / FPS / 60
    console.print(f"{len(kept)} clips, {minutes:.1f} minutes; {len(rejected)} rejected")
