"""Every engine × precision × batch on this machine: ``python -m benchmarks.engines --json OUT --plot PNG``.

Each engine runs in a process of its own. All of them are measured in turns within one run, with two things to
hold them against: the arithmetic floor (multiply-adds counted in the graphs, over the most that any runtime
here does in a second at that precision) and a network of Wav2Lip's size at 96×96 (benchmarks/rival.py).
Times are medians over the turns; ratios are medians of the ratios within a turn, so that a machine that slows
down for a while slows both sides.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.status import Status

from benchmarks.engine_process import CannotMeasure, Target
from benchmarks.engine_report import Series, floor_ms, precision_of, table
from benchmarks.floor import (
    CONVOLUTIONS,
    MATRIX,
    convolution_macs,
    count_macs,
    hop_macs,
    quantise,
    write_convolutions,
    write_products,
)
from benchmarks.machine import commit, machine, versions
from mytalk.clock import FPS
from mytalk.engines import ENGINES, default_bundle
from mytalk.engines.buckets import BUCKETS
from mytalk.engines.bundle import INT8_DECODER, has_amx_bf16
from mytalk.engines.warm import HOP_FRAMES, LOOKAHEAD_FRAMES

WIDTH = 110  # of the table where the output is no terminal
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
RUNTIMES = ("onnx", "openvino")  # that run bare graphs: the peak, and the network to compare with
TORCH = ("fp32", "bf16")  # precisions in which torch itself runs both
# What has no ratio, and why; the floor of float16 on a CPU would be float32's.
NO_RATIO = {
    "onnx-fp16": "a CPU has no float16 arithmetic to measure a peak or the compared network with: it is here"
    " so that the file which cards run is checked"
}


@dataclass
class Plan:
    """What is measured. batches: pictures in a call. rounds: turns; repeat: calls of a turn."""

    bundle: Path
    threads: int | None
    engines: list[str]
    batches: list[int]
    rounds: int
    repeat: int


class Bench:
    """Graphs to compare with, the processes, and the turns."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        self._plan, self._folder, self._tell = plan, folder, tell
        self.series = Series()
        self.engines: dict[str, Target] = {}
        self.rivals: dict[str, Target] = {}
        self.peaks: dict[str, tuple[Target, int]] = {}
        self.refused: dict[str, str] = {}

    def load(self, stack: ExitStack) -> None:
        """Start every process that runs here; what does not is in ``refused`` with its reason."""
        plan = self._plan
        for name in plan.engines:
            about = {"engine": name, "bundle": str(plan.bundle), "threads": plan.threads}
            if (target := self._start(stack, name, about)) is not None:
                self.engines.setdefault(target.loaded["name"], target)
        rivals, peaks = self._graphs()
        for runtime in RUNTIMES:
            for precision, (path, inputs) in rivals.items():
                name = f"rival {runtime}-{precision}"
                about = self._bare(path, runtime, precision, inputs, batched=True)
                if (target := self._start(stack, name, about)) is not None:
                    self.rivals[f"{runtime}-{precision}"] = target
            for name, (precision, path, shape, macs) in peaks.items():
                about = self._bare(path, runtime, precision, {"x": shape}, batched=False)
                if (target := self._start(stack, f"peak {runtime} {name}", about)) is not None:
                    self.peaks[target.name] = (target, macs)
        self._load_torch(stack)

    def _load_torch(self, stack: ExitStack) -> None:
        """The compared network and the peak in torch itself, whose CPU engines run no ONNX file."""
        channels, side = CONVOLUTIONS[-1]
        for precision in TORCH:
            if f"torch-{precision}" not in self.engines:
                continue
            about = {"torch": True, "bf16": precision == "bf16", "threads": self._plan.threads}
            if (rival := self._start(stack, f"rival torch-{precision}", about)) is not None:
                self.rivals[f"torch-{precision}"] = rival
            name = f"peak torch conv {channels} ch {side}² {precision}"
            if (chain := self._start(stack, name, about | {"chain": [channels, side]})) is not None:
                self.peaks[name] = (chain, convolution_macs(channels, side))

    def _start(self, stack: ExitStack, name: str, about: dict[str, Any]) -> Target | None:
        try:
            self._tell(f"loading {name}")
            return stack.enter_context(Target(name, about))
        except CannotMeasure as error:
            self.refused[name] = str(error)
            return None

    def _bare(
        self, path: Path, runtime: str, precision: str, inputs: dict[str, Any], *, batched: bool
    ) -> dict[str, Any]:
        return {
            "graph": str(path),
            "runtime": runtime,
            "bf16": precision == "bf16",
            "inputs": inputs,
            "batched": batched,
            "threads": self._plan.threads,
        }

    def _graphs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The compared network by precision; of the peak, by name: (precision, path, shape, macs)."""
        from benchmarks.rival import INPUTS, export_rival  # noqa: PLC0415 - needs torch

        half = ["bf16"] if has_amx_bf16() else []
        random = np.random.default_rng(0)
        plain, small = self._folder / "rival.onnx", self._folder / "rival_int8.onnx"
        export_rival(plain)
        samples = [
            {name: random.random((1, *shape), dtype=np.float32) for name, shape in INPUTS.items()}
            for _ in range(2)
        ]
        quantise(plain, small, samples)
        rivals = {"fp32": (plain, INPUTS), "int8": (small, INPUTS)} | {name: (plain, INPUTS) for name in half}
        self.rival_macs = sum(count_macs(plain).values())
        peaks: dict[str, Any] = {}
        for channels, side in CONVOLUTIONS:
            path = self._folder / f"conv{channels}.onnx"
            macs = write_convolutions(path, channels, side)
            peaks |= self._at_each(f"conv {channels} ch {side}²", path, [1, channels, side, side], macs, half)
        path = self._folder / "products.onnx"
        macs = write_products(path, MATRIX)
        return rivals, peaks | self._at_each(f"matrix {MATRIX}²", path, [MATRIX, MATRIX], macs, half)

    def _at_each(self, name: str, path: Path, shape: list[int], macs: int, half: list[str]) -> dict[str, Any]:
        small = path.with_name(f"{path.stem}_int8.onnx")
        sample = np.random.default_rng(0).random(tuple(shape), dtype=np.float32)
        quantise(path, small, [{"x": sample}])
        made = {f"{name} fp32": ("fp32", path, shape, macs), f"{name} int8": ("int8", small, shape, macs)}
        return made | {f"{name} {precision}": (precision, path, shape, macs) for precision in half}

    def turn(self, *, keep: bool) -> None:
        """Measure everything once, the compared networks beside the engines; keep: not the first turn."""
        for batch in self._plan.batches:
            for name, target in self.engines.items():
                self._time(target, (name, "decode", batch), keep=keep)
            for name, target in self.rivals.items():
                self._time(target, (f"rival {name}", "run", batch), keep=keep)
        for name, target in self.engines.items():
            self._time(target, (name, "motion", 1), keep=keep)
        for name, (target, _) in self.peaks.items():
            self._time(target, (name, "run", 1), keep=keep)

    def _time(self, target: Target, key: tuple[str, str, int], *, keep: bool) -> None:
        seconds = target.time_s(key[1], key[2], self._plan.repeat if keep else 1)
        if keep:
            self.series.add(key, seconds)

    def peak(self) -> dict[str, Any]:
        """The most multiply-adds in a second by precision, and what did them."""
        best: dict[str, Any] = {}
        for name, (_, macs) in self.peaks.items():
            rate, precision = macs / min(self.series.seconds[name, "run", 1]), precision_of(name.split()[-1])
            if rate > best.get(precision, {"macs_per_s": 0})["macs_per_s"]:
                best[precision] = {"macs_per_s": rate, "by": name.removeprefix("peak ")}
        return best

    def rows(self, peak: dict[str, float]) -> list[dict[str, Any]]:
        """A row for each engine and batch."""
        bundle, rows = self._plan.bundle, []
        floats, int8 = count_macs(bundle / "decode.onnx"), bundle / INT8_DECODER
        small = count_macs(int8) if int8.is_file() else floats
        hop_floats = hop_macs(bundle, HOP_FRAMES + LOOKAHEAD_FRAMES)
        for name, target in self.engines.items():
            precision = precision_of(name)
            hop_ms = self.series.ms((name, "motion", 1))
            memory = target.order(memory=True)["memory_mib"]
            for batch in self._plan.batches:
                frame_ms = self.series.ms((name, "decode", batch)) / batch
                least = floor_ms(small if precision == "int8" else floats, precision, peak)
                talking_ms = frame_ms + hop_ms / HOP_FRAMES
                rows.append(
                    {
                        "engine": name,
                        "precision": precision,
                        "batch": batch,
                        "ms_per_frame": frame_ms,
                        "frames_per_s": 1e3 / frame_ms,
                        "motion_ms_per_hop": hop_ms,
                        "motion_ms_per_frame": hop_ms / HOP_FRAMES,
                        "motion_floor_ms_per_hop": floor_ms(hop_floats, "fp32", peak),
                        "sessions_at_25_fps": 1e3 / FPS / talking_ms,
                        "floor_ms_per_frame": least,
                        "of_floor": None if least is None else frame_ms / least,
                        "of_rival": self._of_rival(name, batch),
                        "no_ratio": NO_RATIO.get(name),
                        "memory_mib": memory,
                        "load_s": target.loaded["load_s"],
                    }
                )
        return rows

    def _of_rival(self, name: str, batch: int) -> float | None:
        """Time over the compared network's on the same runtime at the same precision; None: no such pair."""
        if name not in self.rivals:
            return None
        return self.series.ratio((name, "decode", batch), (f"rival {name}", "run", batch))

    def rival_rows(self) -> list[dict[str, Any]]:
        """A row for each runtime, precision and batch of the compared network."""
        return [
            {
                "engine": name,
                "batch": batch,
                "ms_per_frame": self.series.ms((f"rival {name}", "run", batch)) / batch,
            }
            for name in self.rivals
            for batch in self._plan.batches
        ]


def measure(plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run it all; returns the report. tell: takes a line about what is going on."""
    about = {"machine": machine(), "versions": versions(), "commit": commit()}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        tell("exporting the network to compare with")
        bench = Bench(plan, Path(folder), tell)
        bench.load(stack)
        tell("warming up")
        bench.turn(keep=False)
        begin = time.monotonic()
        for number in range(plan.rounds):
            left_s = (time.monotonic() - begin) / number * (plan.rounds - number) if number else None
            tell(f"turn {number + 1} of {plan.rounds}" + ("" if left_s is None else f", {left_s:.0f} s left"))
            bench.turn(keep=True)
        peak = bench.peak()
        rows = bench.rows({precision: best["macs_per_s"] for precision, best in peak.items()})
        return about | {
            "bundle": plan.bundle.name,
            "threads": plan.threads,
            "rounds": plan.rounds,
            "hop_frames": HOP_FRAMES,
            "macs": {
                "decode": count_macs(plan.bundle / "decode.onnx"),
                "encode": count_macs(plan.bundle / "encode.onnx"),
                "motion": hop_macs(plan.bundle, HOP_FRAMES + LOOKAHEAD_FRAMES),
            },
            "peak": peak,
            "rows": rows,
            "rival": {"macs": bench.rival_macs, "rows": bench.rival_rows()},
            "not_run": bench.refused,
        }


def _tell(console: Console, status: Status, line: str) -> None:
    """In a terminal one line that changes; in a log a line each."""
    if console.is_terminal:
        status.update(line)
    else:
        console.print(line, highlight=False, soft_wrap=True)


def named_engines() -> list[str]:
    """Every engine of one precision; names without one stand for one of these."""
    return [name for name in ENGINES if precision_of(name) in PRECISIONS]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=default_bundle(), help="default: the shipped weights")
    parser.add_argument(
        "--engines",
        nargs="+",
        default=named_engines(),
        metavar="NAME",
        help="default: all; those that cannot run here are listed with the reason",
    )
    parser.add_argument("--batches", nargs="+", type=int, default=list(BUCKETS), help="default: 1 2 4 8 16")
    parser.add_argument("--threads", type=int, help="CPU threads of a call (default: the runtime decides)")
    parser.add_argument("--rounds", type=int, default=15, help="turns to measure (default 15)")
    parser.add_argument("--repeat", type=int, default=3, help="calls in a turn (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the report here (needs matplotlib)")
    args = parser.parse_args(argv)
    if args.threads is not None and args.threads < 1:
        parser.error("--threads is at least 1")
    if min(args.rounds, args.repeat, *args.batches) < 1 or max(args.batches) > BUCKETS[-1]:
        parser.error(f"--rounds and --repeat are at least 1, --batches 1..{BUCKETS[-1]}")
    plan = Plan(args.bundle, args.threads, args.engines, args.batches, args.rounds, args.repeat)
    console = Console(stderr=True)
    try:
        with console.status("") as status:
            report = measure(plan, lambda line: _tell(console, status, line))
    except ImportError as error:
        print(f"error: {error}; pip install -c constraints.txt -e '.[train]'", file=sys.stderr)
        return 1
    if not report["rows"]:
        print(f"error: no engine runs here: {report['not_run']}", file=sys.stderr)
        return 1
    out = Console()
    (out if out.is_terminal else Console(width=WIDTH)).print(table(report))
    for name, why in report["not_run"].items():
        print(f"{name}: not run ({why})")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.plot is not None:
        from benchmarks.engine_plots import plot  # noqa: PLC0415 - needs matplotlib

        plot(report, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
