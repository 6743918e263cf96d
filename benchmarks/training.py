"""Step throughput of every trainer: ``python -m benchmarks.training --json OUT``.

Runs ``python -m training.throughput`` for each size and precision, one process after another, on made-up
clips and the settings of training/configs, and writes the figures with the machine they were taken on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import ROOT, commit, machine, versions

COLUMNS = ("trainer", "size", "precision", "frames_per_s", "step_s", "frames_per_step", "peak_gpu_gb")


def measure(trainer: str, size: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """One trainer at one size and precision; ``error`` in place of figures where it cannot run here."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "training.throughput", "--trainer", trainer, "--size", size]
        command += ["--precision", precision, "--steps", str(args.steps), "--warm", str(args.warm)]
        command += ["--threads", str(args.threads), "--json", str(out)]
        if args.batch is not None:
            command += ["--batch", str(args.batch)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            return {"trainer": trainer, "size": size, "precision": precision, "error": reason[0]}
        figures: dict[str, Any] = json.loads(out.read_text())[0]
        return figures


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a person."""
    shown = Table(title="Training throughput")
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in COLUMNS[:3] else "right")
    for row in rows:
        cells = [str(row.get(name, "–") if row.get(name) is not None else "–") for name in COLUMNS]
        shown.add_row(*cells)
    return shown


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"], help="default: tiny base")
    parser.add_argument("--trainers", nargs="+", default=["identity", "motion", "appearance"])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--steps", type=int, default=5, help="steps to measure (default 5)")
    parser.add_argument("--warm", type=int, default=2, help="steps before them (default 2)")
    parser.add_argument("--batch", type=int, help="of every trainer; default: the configs' own")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    about = {"machine": machine(), "versions": versions(), "commit": commit()}
    rows = []
    for size in args.sizes:
        for trainer in args.trainers:
            for precision in args.precisions:
                rows.append(measure(trainer, size, precision, args))
                print(json.dumps(rows[-1]), flush=True)
    Console().print(table(rows))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
