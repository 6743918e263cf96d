"""Step throughput of every trainer: ``python -m benchmarks.training --json OUT``.

Runs ``python -m training.throughput`` for each size and precision, one process after another, on made-up
clips and the settings of training/configs, and writes the figures with the machine they were taken on. Step
time and memory of the paper's sizes on a GPU: ``--size paper --precisions bf16-mixed --recompute
--adversarial``.
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

COLUMNS = (
    "trainer",
    "size",
    "precision",
    "frames_per_s",
    "step_s",
    "step_cpu_s",
    "frames_per_step",
    "peak_process_gb",
    "peak_gpu_gb",
)
FLAGS = ("steps", "warm", "threads", "batch", "targets", "accumulate", "strategy", "device")
SWITCHES = ("recompute", "adversarial")
# One sequence, or one picture of one clip, forward and backward, once: what a big size costs.
ONE_STEP = {"steps": 1, "warm": 0, "batch": 1, "targets": 1, "accumulate": 1}


def options(args: argparse.Namespace) -> list[str]:
    """Arguments of ``training.throughput`` that all rows have in common."""
    given = {name: getattr(args, name) for name in FLAGS}
    if args.one_step:
        given |= {name: value for name, value in ONE_STEP.items() if given[name] is None}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    return words + [f"--{name}" for name in SWITCHES if getattr(args, name)]


def measure(trainer: str, size: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """One trainer at one size and precision; ``error`` in place of figures where it cannot run here."""
    about = {"trainer": trainer, "size": size, "precision": precision}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "training.throughput", "--trainer", trainer, "--size", size]
        command += ["--precision", precision, "--json", str(out), *options(args)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=args.limit_s
            )
        except subprocess.TimeoutExpired:
            return about | {"error": f"not over within {args.limit_s:g} s"}
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            return about | {"error": reason[0]}
        figures: dict[str, Any] = json.loads(out.read_text())[0]
        return figures


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a person."""
    shown = Table(title="Training throughput")
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in COLUMNS[:3] else "right")
    for row in rows:
        if "error" in row:
            shown.add_row(row["trainer"], row["size"], row["precision"], row["error"], style="red")
            continue
        cells = [str(row.get(name, "–") if row.get(name) is not None else "–") for name in COLUMNS]
        shown.add_row(*cells)
    return shown


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", "--size", nargs="+", default=["tiny", "base"], help="default: tiny base")
    parser.add_argument("--trainers", nargs="+", default=["identity", "motion", "appearance"])
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument(
        "--one-step",
        action="store_true",
        help="one step of one face, sequence or picture, nothing before it: for big sizes",
    )
    parser.add_argument("--steps", type=int, help="steps to measure (default 5)")
    parser.add_argument("--warm", type=int, help="steps before them (default 2)")
    parser.add_argument("--batch", type=int, help="of every trainer; default: the configs' own")
    parser.add_argument("--targets", type=int, help="pictures of each clip; default: the configs' own")
    parser.add_argument("--accumulate", type=int, help="batches of a step; default: the configs' own")
    parser.add_argument("--strategy", help="auto, ddp or fsdp; default: the configs' own")
    parser.add_argument("--device", help="auto (default), cpu or cuda")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing")
    parser.add_argument("--adversarial", action="store_true", help="with the discriminator, however late")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="most seconds a row (default 1800)")
    parser.add_argument("--json", type=Path, help="write the figures here, after every row")
    args = parser.parse_args(argv)
    about = {"machine": machine(), "versions": versions(), "commit": commit()}
    rows = []
    for size in args.sizes:
        for trainer in args.trainers:
            for precision in args.precisions:
                rows.append(measure(trainer, size, precision, args))
                print(json.dumps(rows[-1]), flush=True)
                if args.json is not None:
                    args.json.parent.mkdir(parents=True, exist_ok=True)
                    args.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    Console().print(table(rows))
    return 1 if any("error" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
