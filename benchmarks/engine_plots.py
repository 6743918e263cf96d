"""Draws a report of benchmarks/engines.py: time over the floor, the compared network, sessions, memory."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

Row = dict[str, Any]
REASONS_WIDTH = 190  # characters


def plot(report: dict[str, Any], path: Path) -> None:
    """Write the report as a PNG."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), dpi=110)
    engines = _engines(report)
    colours = {name: f"C{number}" for number, name in enumerate(engines)}
    _by_batch(axes[0][0], engines, colours)
    _against_rival(axes[0][1], report)
    _bars(
        axes[1][0],
        {name: max(row["sessions_at_25_fps"] for row in rows) for name, rows in engines.items()},
        colours,
        "sessions at 25 frames/s (decoder and motion alone, best batch)",
        "{:.1f}",
    )
    _bars(
        axes[1][1],
        {name: rows[0]["memory_mib"].get("peak", 0.0) for name, rows in engines.items()},
        colours,
        "MiB of the engine's process, at most",
        "{:.0f}",
    )
    about = report["machine"]
    figure.suptitle(
        f"{about['cpu']}, {about['cores']} cores; weights {report['bundle']}, commit {report['commit']};"
        f" load before {about['load_1m_before']}",
        fontsize=10,
    )
    reasons = _reasons(report)
    lines = reasons.count("\n") + 1 if reasons else 0
    figure.text(0.01, 0.005, reasons, fontsize=7, va="bottom", color="0.3")
    figure.tight_layout(rect=(0, 0.016 * lines, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _engines(report: dict[str, Any]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in report["rows"]:
        rows.setdefault(row["engine"], []).append(row)
    return rows


def _reasons(report: dict[str, Any]) -> str:
    told = [f"not run: {name} ({why})" for name, why in report["not_run"].items()]
    return "\n".join(textwrap.shorten(line, REASONS_WIDTH, placeholder=" …") for line in told)


def _by_batch(axes: Axes, engines: dict[str, list[Row]], colours: dict[str, str]) -> None:
    floors: dict[str, float] = {}
    for name, rows in engines.items():
        batches = [row["batch"] for row in rows]
        axes.plot(batches, [row["ms_per_frame"] for row in rows], marker="o", label=name, color=colours[name])
        if rows[0]["floor_ms_per_frame"] is not None:
            floors[rows[0]["precision"]] = rows[0]["floor_ms_per_frame"]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    all_rows = [row for rows in engines.values() for row in rows]
    batches = sorted({row["batch"] for row in all_rows})
    for precision, least in floors.items():
        axes.axhline(least, color="0.4", linestyle=":", linewidth=1)
        axes.annotate(
            f"floor {precision}: {least:.1f}",
            (batches[0], least),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="left",
            fontsize=8,
            color="0.3",
        )
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("pictures in a call")
    axes.set_title(
        "milliseconds per picture of 256×256; dotted: the arithmetic floor at that precision", fontsize=9
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, ncols=2, loc="lower right")
    axes.set_ylim(bottom=0.6 * min([*floors.values(), *(row["ms_per_frame"] for row in all_rows)]))


def _against_rival(axes: Axes, report: dict[str, Any]) -> None:
    first = min(row["batch"] for row in report["rows"])
    ours = {row["engine"]: row for row in report["rows"] if row["batch"] == first}
    theirs = {row["engine"]: row for row in report["rival"]["rows"] if row["batch"] == first}
    names = [name for name in ours if name in theirs]
    places = range(len(names))
    for shift, rows, label in (
        (-0.2, ours, "mytalk, 256×256"),
        (0.2, theirs, "a network of Wav2Lip's size, 96×96"),
    ):
        widths = [rows[name]["ms_per_frame"] for name in names]
        axes.barh([place + shift for place in places], widths, 0.38, label=label)
    for place, name in zip(places, names, strict=True):
        share = ours[name]["of_rival"]
        axes.text(ours[name]["ms_per_frame"], place - 0.2, f" ×{share:.2f}", va="center", fontsize=8)
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set_title(
        f"milliseconds per picture, {first} in a call, on the same runtime at the same precision",
        fontsize=9,
    )
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8)


def _bars(axes: Axes, values: dict[str, float], colours: dict[str, str], title: str, form: str) -> None:
    names = list(values)
    bars = axes.barh(names, [values[name] for name in names], color=[colours[name] for name in names])
    axes.bar_label(bars, [form.format(values[name]) for name in names], fontsize=8, padding=3)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3, axis="x")
