"""What benchmarks/engines.py makes of its times: medians and ratios over the turns, the floor, a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.table import Table


@dataclass
class Series:
    """Seconds of one call in every turn (the median of the turn's calls), by (target, call, batch)."""

    seconds: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)

    def add(self, key: tuple[str, str, int], calls: list[float]) -> None:
        """Keep a turn."""
        self.seconds.setdefault(key, []).append(median(calls))

    def ms(self, key: tuple[str, str, int]) -> float:
        """Milliseconds of the call: median over the turns."""
        return 1e3 * median(self.seconds[key])

    def ratio(self, one: tuple[str, str, int], other: tuple[str, str, int]) -> float:
        """How many times as long ``one`` takes as ``other``: median over the turns that hold both."""
        return median(a / b for a, b in zip(self.seconds[one], self.seconds[other], strict=False))


def precision_of(name: str) -> str:
    """The precision at the end of an engine's name."""
    return name.rpartition("-")[2]


def floor_ms(macs: dict[str, int], precision: str, peak: dict[str, float]) -> float | None:
    """Least milliseconds of a graph; peak: multiply-adds in a second by precision. None: not measured."""
    needs = {"int8": macs["int8"], (precision if precision != "int8" else "fp32"): macs["float"]}
    if any(count and name not in peak for name, count in needs.items()):
        return None
    return 1e3 * sum(count / peak[name] for name, count in needs.items() if count)


def table(report: dict[str, Any]) -> Table:
    """The report for a person."""
    shown = Table(title="ms per picture of 256×256 by batch; motion per hop of two frames")
    batches = sorted({row["batch"] for row in report["rows"]})
    for name in ("engine", *map(str, batches), "motion", "sessions", "× floor", "× rival", "MiB"):
        shown.add_column(name, justify="left" if name == "engine" else "right")
    for engine in dict.fromkeys(row["engine"] for row in report["rows"]):
        rows = {row["batch"]: row for row in report["rows"] if row["engine"] == engine}
        first = rows[batches[0]]
        ratios = [first["of_floor"], first["of_rival"]]
        shown.add_row(
            engine,
            *(f"{rows[batch]['ms_per_frame']:.2f}" for batch in batches),
            f"{first['motion_ms_per_hop']:.1f}",
            f"{max(row['sessions_at_25_fps'] for row in rows.values()):.1f}",
            *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            f"{first['memory_mib'].get('peak', 0):.0f}",
        )
    return shown
