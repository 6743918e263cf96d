"""What a precision costs in quality: ``python benchmarks/precision.py DATA --json OUT``.

Runs benchmarks/quality.py on the same clips with an engine in float32 and with others of fewer bits, and
prints the figures before and after. ``DATA`` and ``--group`` are those of benchmarks/quality.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the file can be run as it stands

from benchmarks import quality  # noqa: E402 - after the path

BEFORE = "onnx-fp32"
AFTER = ("onnx-int8",)


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """{group: {figure: {before, after, change}}} of two quality reports, where both have a number."""
    out: dict[str, dict[str, dict[str, float]]] = {}
    for group, report in before["reports"].items():
        one, two = report["mean"], after["reports"][group]["mean"]
        out[group] = {
            key: {"before": one[key], "after": two[key], "change": two[key] - one[key]}
            for key in one
            if isinstance(one[key], int | float) and isinstance(two.get(key), int | float)
        }
    return out


def table(engine: str, changes: dict[str, dict[str, dict[str, float]]]) -> Table:
    """One engine beside float32, for a person."""
    shown = Table(title=f"{engine} beside {BEFORE}")
    for name in ("clips", "figure", "before", "after", "change"):
        shown.add_column(name, justify="left" if name in ("clips", "figure") else "right")
    for group, figures in changes.items():
        for key, row in figures.items():
            cells = (f"{row['before']:.4f}", f"{row['after']:.4f}", f"{row['change']:+.4f}")
            shown.add_row(group, key, *cells)
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", help="folder with grid/s32 and synthetic")
    parser.add_argument("--group", action="append", default=[], metavar="NAME=DIR", help="more clips")
    parser.add_argument("--modes", nargs="+", choices=quality.MODES, default=["appearance"])
    parser.add_argument("--model", help="exported bundle (default: the shipped one)")
    parser.add_argument("--engines", nargs="+", default=list(AFTER), help=f"default: {' '.join(AFTER)}")
    parser.add_argument("--most", help="the first so many clips of each group only")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    args.part = args.sheets = None
    reports = {}
    try:
        for engine in (BEFORE, *args.engines):
            args.engine = engine
            reports[engine] = quality.measure(args)
    except quality.QualityError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    changes = {engine: differences(reports[BEFORE], reports[engine]) for engine in args.engines}
    for engine, one in changes.items():
        Console().print(table(engine, one))
    if args.json is not None:
        about = {key: value for key, value in reports[BEFORE].items() if key != "reports"}
        clips = {group: report.get("clips") for group, report in reports[BEFORE]["reports"].items()}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(about | {"before": BEFORE, "clips": clips, "changes": changes}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
