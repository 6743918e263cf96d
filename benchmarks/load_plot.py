"""Draws a report of benchmarks/load.py: where the processor time goes, and late pictures by sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PARTS = ("motion", "draw", "decode", "paste", "encode", "send", "event_loop", "other", "client")


def plot(report: dict[str, Any], path: Path) -> None:
    """Write the report as a PNG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), dpi=120, width_ratios=(2, 1))
    _parts(left, report["steps"])
    _late(right, report)
    about = report["machine"]
    figure.suptitle(
        f"{report['talking_in_time']} sessions talk in time: {report['engine']}, {about['cpu']},"
        f" {about['cores']} cores, viewers included; commit {report['commit']}",
        fontsize=9,
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _parts(axes: Axes, steps: list[dict[str, Any]]) -> None:
    labels = [str(step["sessions"]) for step in steps]
    left = [0.0] * len(steps)
    for part in PARTS:
        widths = [step["cpu_ms_per_picture"].get(part, 0.0) for step in steps]
        axes.barh(labels, widths, left=left, height=0.6, label=part.replace("_", " "))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xlabel("ms of processor time for each spoken picture")
    axes.set_ylabel("sessions talking at once")
    axes.set_ylim(-0.8, max(1, len(steps)) - 0.2)
    axes.legend(fontsize=7, ncols=len(PARTS), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _late(axes: Axes, report: dict[str, Any]) -> None:
    steps = report["steps"]
    sessions = [step["sessions"] for step in steps]
    axes.plot(sessions, [step["late_pct"] for step in steps], marker="o", label="late pictures, %")
    axes.axhline(report["late_limit_pct"], linestyle=":", color="grey")
    axes.plot(sessions, [step["server_cores"] for step in steps], marker="s", label="cores, server")
    axes.plot(sessions, [step["client_cores"] for step in steps], marker="^", label="cores, viewers")
    axes.set_xlabel("sessions talking at once")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(bottom=0)
    axes.set_xticks(sessions)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
