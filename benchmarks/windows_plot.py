"""Draws a report of benchmarks/windows.py: quality against algorithmic delay, a line for each hop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

PANELS = {
    "mouth_correlation": "correlation with the true mouth",
    "opening_correlation": "correlation with the model's own best",
    "closure_rate": "lips closed at p, b, m (share)",
    "jerk": "jerk (third difference per frame)",
    "cpu_ms_per_frame": "motion, CPU ms a frame",
}
COLUMNS = 3


def plot(report: dict[str, Any], path: Path) -> None:
    """Write the report as a PNG; the steps are those of the first row, dashed lines the filmed mouths."""
    steps = report["rows"][0]["steps"]
    rows = [row for row in report["rows"] if row["steps"] == steps]
    keys = [key for key in PANELS if rows[0][key] is not None]
    count = -(-len(keys) // COLUMNS)
    figure, panels = plt.subplots(
        count, COLUMNS, figsize=(4.4 * COLUMNS, 3.8 * count), dpi=100, squeeze=False
    )
    for axes in panels.flat[len(keys) :]:
        axes.set_visible(False)
    for axes, key in zip(panels.flat, keys, strict=False):
        for hop in sorted({row["hop"] for row in rows}):
            line = sorted((row for row in rows if row["hop"] == hop), key=lambda row: row["lookahead"])
            axes.plot(
                [row["delay_ms"] for row in line], [row[key] for row in line], marker="o", label=f"hop {hop}"
            )
            for row in line:
                at = (row["delay_ms"], row[key])
                axes.annotate(
                    f"+{row['lookahead']}", at, xytext=(3, 4), textcoords="offset points", fontsize=7
                )
        true = (report["truth"] or {}).get(key)
        if true is not None:
            axes.axhline(true, color="grey", linestyle="--", linewidth=1, label="filmed")
        axes.set_title(PANELS[key], fontsize=9)
        axes.set_xlabel("algorithmic delay (ms); +n: lookahead")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle(
        f"{len(report['clips'])} utterance(s), {steps} steps, {report['engine']}, commit {report['commit']}",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
