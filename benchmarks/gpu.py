"""All figures that need a graphics card, in one run: ``python -m benchmarks.gpu --json OUT``.

1. Parity of every card engine with torch in float32 (``python -m export check``).
2. Every card engine × batch on the shipped bundle (``python -m benchmarks.engines``).
3. Sizes ``tiny``, ``base`` and ``paper`` with random weights, which serve for speed: what runs for every
   frame (landmark encoder and decoder), card time alone, up a ladder of levers, against the arithmetic floor
   (multiply-adds counted by torch, over the fastest matrix product measured in this run).

What does not run says why in the report; nothing is left out silently. Not run on a card by its authors yet.
``--device cpu`` goes through part 3 with small networks, to try the script itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.ladder import climb, peak_flops
from benchmarks.machine import ROOT, commit, machine, versions
from mytalk.engines import default_bundle

ENGINES = (
    "onnx-cuda",
    "onnx-cuda-fp32",
    "onnx-tensorrt",
    "torch-cuda",
    "torch-cuda-fp32",
    "tensorrt",
    "tensorrt-bf16",
)
BATCHES = (1, 2, 4, 8, 16)
GOALS_FPS = {"paper": 40, "base": 800, "tiny": 5000}  # issue 7, on one H200; paper with fp8: 62


def parity(bundle: Path) -> dict[str, str]:
    """What ``export check`` says of every card engine."""
    told = {}
    for name in ENGINES:
        command = [sys.executable, "-m", "export", "check", str(bundle), "--engine", name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        told[name] = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:] or [""]
    return {name: lines[0] for name, lines in told.items()}


def shipped(bundle: Path) -> Any:
    """The report of benchmarks/engines.py on the card's engines."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "engines.json"
        command = [sys.executable, "-m", "benchmarks.engines", "--bundle", str(bundle), "--json", str(out)]
        done = subprocess.run(
            [*command, "--engines", *ENGINES], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return {"not_run": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
        return json.loads(out.read_text())


def table(rows: list[dict[str, Any]]) -> Table:
    """The sizes for a person."""
    shown = Table(title="landmark encoder and decoder, per frame")
    for name in ("size", "part", "lever", "batch", "ms", "fps", "× floor", "dB"):
        shown.add_column(name, justify="left" if name in ("size", "part", "lever") else "right")
    for row in rows:
        about = [row["size"], row["part"], row["lever"], str(row["batch"])]
        if "not_run" in row:
            shown.add_row(*about, "–", "–", "–", row["not_run"][:40])
            continue
        ratio = "–" if row["of_floor"] is None else f"{row['of_floor']:.2f}"
        shown.add_row(
            *about, f"{row['ms_per_frame']:.2f}", f"{row['fps']:.0f}", ratio, f"{row['agreement_db']:.0f}"
        )
    return shown


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), help="default: the shipped weights")
    parser.add_argument("--sizes", nargs="+", choices=sorted(GOALS_FPS), default=["tiny", "base", "paper"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), help="default: 1 2 4 8 16")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try the script itself"
    )
    parser.add_argument("--skip", nargs="+", choices=("parity", "engines", "sizes"), default=[])
    parser.add_argument("--json", type=Path, help="write the report here")
    args = parser.parse_args(argv)
    console = Console(stderr=True)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no CUDA card here", file=sys.stderr)
        return 1
    card = torch.cuda.get_device_name() if args.device == "cuda" else None
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "commit": commit(), "card": card}
    if "parity" not in args.skip:
        report["parity"] = parity(args.bundle)
    if "engines" not in args.skip:
        report["engines"] = shipped(args.bundle)
    if "sizes" not in args.skip:
        peak = peak_flops(args.device)
        rows = [
            row for size in args.sizes for row in climb(size, tuple(args.batches), args.device, peak, console)
        ]
        report |= {"peak_flops": peak, "rows": rows, "goals_fps": GOALS_FPS}
        Console().print(table(rows))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
