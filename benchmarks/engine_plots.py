"""Draws a report of benchmarks/engines.py: time by batch over the floor, and against the compared network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes


def plot(report: dict[str, Any], path: Path) -> None:
    """Write the report as a PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), dpi=120)
    _by_batch(left, report)
    _against_rival(right, report)
    about = report["machine"]
    figure.suptitle(
        f"{about['cpu']}, {about['cores']} cores; {report['bundle']}, commit {report['commit']}", fontsize=9
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _engines(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        rows.setdefault(row["engine"], []).append(row)
    return rows


def _by_batch(axes: Axes, report: dict[str, Any]) -> None:
    for name, rows in _engines(report).items():
        (line,) = axes.plot(
            [row["batch"] for row in rows], [row["ms_per_frame"] for row in rows], marker="o", label=name
        )
        least = rows[0]["floor_ms_per_frame"]
        if least is not None:
            axes.axhline(least, color=line.get_color(), linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    batches = sorted({row["batch"] for row in report["rows"]})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xlabel("pictures in a call")
    axes.set_ylabel("milliseconds per picture of 256×256")
    axes.set_title("dotted: arithmetic floor at that precision", fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)


def _against_rival(axes: Axes, report: dict[str, Any]) -> None:
    first = min(row["batch"] for row in report["rows"])
    ours = {row["engine"]: row for row in report["rows"] if row["batch"] == first}
    theirs = {row["engine"]: row for row in report["rival"]["rows"] if row["batch"] == first}
    names = [name for name in ours if name in theirs]
    places = range(len(names))
    axes.barh(
        [place - 0.2 for place in places],
        [ours[name]["ms_per_frame"] for name in names],
        0.38,
        label="mytalk, 256×256",
    )
    axes.barh(
        [place + 0.2 for place in places],
        [theirs[name]["ms_per_frame"] for name in names],
        0.38,
        label="a network of Wav2Lip's size, 96×96",
    )
    for place, name in zip(places, names, strict=True):
        share = ours[name]["of_rival"]
        axes.text(ours[name]["ms_per_frame"], place - 0.2, f" ×{share:.2f}", va="center", fontsize=8)
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"milliseconds per picture, {first} in a call")
    axes.set_title("same runtime, same precision, same run", fontsize=9)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8)
