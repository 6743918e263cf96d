"""The paper's Tables 1, 2, 4 and 10 with our figures under its published rows, from reports."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mytalk.errors import BadInput, MyTalkError

PUBLISHED = "published"
SEE = "published figures: the paper's data, 256×256, its own detector and crops; ours: the clips given"


@dataclass(frozen=True, slots=True)
class Published:
    """One table of the paper. columns: our keys with the paper's headings; rows: its figures as printed."""

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


QUALITY = (("psnr", "PSNR"), ("ssim", "SSIM"), ("lpips", "LPIPS"), ("fid", "FID"))
SYNC = (("sync_conf", "Sync_conf"), ("sync_dist", "Sync_dist"), ("id_sim", "ID_sim"))
COST = (("parameters_b", "#param. (B)"), ("seconds", "Time (s)"))
TABLE_1 = Published(
    "Table 1: paired test set",
    (*QUALITY, *SYNC),
    (
        ("Wav2Lip", (30.967, 0.894, 0.095, 7.703, 6.249, 7.829, 0.921)),
        ("VideoReTalking", (29.628, 0.885, 0.101, 9.628, 6.978, 6.986, 0.895)),
        ("TalkLip", (31.140, 0.896, 0.095, 7.401, 8.107, 5.300, 0.926)),
        ("MyTalk", (33.547, 0.906, 0.091, 5.142, 6.544, 7.461, 0.947)),
    ),
)
TABLE_2 = Published(
    "Table 2: unpaired test set",
    (SYNC[0], SYNC[2]),
    (
        ("Wav2Lip", (6.711, 0.916)),
        ("VideoReTalking", (7.580, 0.694)),
        ("TalkLip", (9.321, 0.922)),
        ("MyTalk", (6.703, 0.943)),
    ),
)
TABLE_4 = Published(
    "Table 4: appearance model, from true landmarks",
    QUALITY,
    (("GAIA", (24.205, 0.757, 0.175, 14.568)), ("MyTalk", (34.153, 0.926, 0.092, 4.224))),
)
TABLE_10 = Published(
    "Table 10: quality and cost, paired test set",
    (QUALITY[0], QUALITY[3], SYNC[2], SYNC[0], SYNC[1], *COST),
    (
        ("Wav2Lip", (30.967, 7.703, 0.921, 6.249, 7.829, 0.14, 32.392)),
        ("VideoReTalking", (29.628, 9.628, 0.895, 6.978, 6.986, 0.69, 897.671)),
        ("TalkLip", (31.140, 7.401, 0.926, 8.107, 5.300, 0.53, 67.756)),
        ("MyTalk", (33.547, 5.142, 0.947, 6.544, 7.461, 1.23, 631.497)),
    ),
)

Report = Mapping[str, Any]


def tables_for(report: Report) -> tuple[Published, ...]:
    """Which of the paper's tables a report belongs into."""
    settings = report["settings"]
    if not settings["paired"]:
        return (TABLE_2,)
    return (TABLE_4,) if settings["mode"] == "appearance" else (TABLE_1, TABLE_10)


def figures_of(report: Report) -> dict[str, float | None]:
    """The report's means, with the costs of Table 10."""
    count, made = report["settings"].get("parameters"), report.get("seconds_to_make")
    outputs = report["settings"]["mode"] == "outputs"
    return dict(report["mean"]) | {
        "parameters_b": None if count is None else count / 1e9,
        "seconds": None if outputs else made,  # of others' videos only the reading was timed
    }


def _text(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if key == "parameters_b" and value < 0.1 else f"{value:.3f}"


def table(published: Published, reports: Sequence[Report]) -> Table:
    """One table: the paper's rows, marked as published, and ours below them."""
    out = Table(title=published.title)
    out.add_column("system")
    out.add_column("from")
    for _, heading in published.columns:
        out.add_column(heading, justify="right")
    for name, values in published.rows:
        out.add_row(name, PUBLISHED, *(f"{value:.3f}" for value in values), style="dim")
    out.add_section()
    for report in reports:
        figures = figures_of(report)
        cells = (_text(key, figures.get(key)) for key, _ in published.columns)
        out.add_row(report["settings"]["system"], f"measured, {len(report['clips'])} clips", *cells)
    return out


def own_table(reports: Sequence[Report]) -> Table:
    """Every figure of every report, the lip_* ones that we compare by first, with its baselines."""
    out = Table(title="All figures (means over clips)")
    out.add_column("figure")
    for report in reports:
        settings = report["settings"]
        out.add_column(f"{settings['system']}, {settings['mode']}", justify="right")
    keys = list(reports[0]["mean"])
    for key in sorted(keys, key=lambda k: (not k.startswith("lip_"), keys.index(k))):
        out.add_row(key, *(_text(key, report["mean"].get(key)) for report in reports))
    out.add_section()
    for key in reports[0].get("baselines", {}):
        out.add_row(f"baseline: {key}", *(_text(key, report["baselines"].get(key)) for report in reports))
    return out


def print_tables(reports: Sequence[Report], console: Console | None = None) -> None:
    """Print every table that the reports belong into, and why figures are missing."""
    console = console or Console(width=120)
    for published in (TABLE_1, TABLE_2, TABLE_4, TABLE_10):
        own = [report for report in reports if published in tables_for(report)]
        if own:
            console.print(table(published, own))
    console.print(SEE)
    console.print(own_table(reports))
    reasons = [f"– {key}: {reason}" for report in reports for key, reason in report["reasons"].items()]
    for line in dict.fromkeys(reasons):  # several reports lack the same weights: once is enough
        console.print(line)
    for report in reports:
        for name, reason in report["skipped"].items():
            console.print(f"left out {name}: {reason}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path, help="JSON files that training.evaluate wrote")
    args = parser.parse_args(argv)
    try:
        reports = []
        for path in args.reports:
            try:
                report = json.loads(path.read_text(encoding="utf-8"))
                tables_for(report)
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise BadInput(f"{path}: not a report of training.evaluate ({error})") from error
            reports.append(report)
        print_tables(reports)
    except MyTalkError as error:
        print(f"training.tables: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
