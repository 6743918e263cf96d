"""One engine, or one bare graph on a runtime, in a process of its own; does and times what stdin asks for.

``python -m benchmarks.engine_process '{"engine": "onnx-fp32", …}'``. Each line of stdin is a JSON order, each
line of stdout its answer; the process ends with its stdin. ``Target`` is the other end of that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT
from mytalk.engines import load_engine
from mytalk.engines.graphs import GraphRunner
from mytalk.engines.warm import Exercise
from mytalk.errors import MyTalkError

STATUS = Path("/proc/self/status")
Calls = dict[str, Callable[[int], Any]]


class CannotMeasure(Exception):
    """What is to be measured does not run here; the message is one line."""


class Target:
    """A process that holds one thing to be measured. Use it as a context manager."""

    def __init__(self, name: str, about: dict[str, Any]) -> None:
        """about: see ``calls_of``. Raises ``CannotMeasure`` when it cannot be loaded."""
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engine_process", json.dumps(about)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self.loaded = self._answer()
        except CannotMeasure:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CannotMeasure(f"its process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CannotMeasure(answer["error"])
        return answer

    def order(self, **order: Any) -> dict[str, Any]:
        """Send an order, return its answer; raises ``CannotMeasure`` when it failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise CannotMeasure(f"its process has ended ({error.strerror})") from error
        return self._answer()

    def time_s(self, call: str, count: int, repeat: int) -> list[float]:
        """Seconds of each of ``repeat`` calls, one after the other."""
        seconds: list[float] = self.order(call=call, count=count, repeat=repeat)["seconds"]
        return seconds

    def close(self) -> None:
        """End the process; idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Target:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def memory_mib() -> dict[str, float]:
    """Resident memory of this process now and at its highest, MiB; empty where nobody can tell."""
    try:
        lines = [line.split() for line in STATUS.read_text().splitlines()]
    except OSError:
        return {}
    found = {words[0]: int(words[1]) / 1024 for words in lines if words and words[0] in ("VmRSS:", "VmHWM:")}
    return {"now": round(found["VmRSS:"], 1), "peak": round(found["VmHWM:"], 1)}


def calls_of(about: dict[str, Any]) -> tuple[str, Calls]:
    """What can be asked for of what ``about`` describes.

    {"engine", "bundle", "threads"}, or {"graph", "runtime", "bf16", "inputs", "batched", "threads"}: graph is
    the path of an ONNX file, inputs {name: shape of one sample}, batched whether they get a batch axis; or
    {"torch", "bf16", "threads"}: the compared network in torch, or with "chain" [channels, side] those.
    Returns the name of what was loaded and the calls, each of which takes a batch size.
    """
    if "engine" in about:
        engine = load_engine(about["engine"], Path(about["bundle"]), about["threads"])
        exercise = Exercise(engine)
        return engine.name, {
            "decode": exercise.decode,
            "motion": lambda _: exercise.motion(),
            "encode": exercise.encode,
        }
    if "torch" in about:
        from benchmarks.torch_bare import timed  # noqa: PLC0415 - needs torch

        return "torch", {"run": timed(about["bf16"], about.get("chain"), about["threads"])}
    runner, random = _runner(about), np.random.default_rng(0)

    def run(count: int) -> Any:
        lead = (count,) if about["batched"] else ()
        given = {
            name: random.random((*lead, *shape), dtype=np.float32) for name, shape in about["inputs"].items()
        }
        begin = time.perf_counter()
        runner.run("decode", given)
        return time.perf_counter() - begin

    return about["graph"], {"run": run}


def _runner(about: dict[str, Any]) -> GraphRunner:
    paths = {"decode": Path(about["graph"])}
    if about["runtime"] == "openvino":
        from mytalk.engines.openvino import OpenVinoRunner  # noqa: PLC0415 - may not be installed

        return OpenVinoRunner(paths, about["threads"], bf16=about["bf16"])
    from mytalk.engines.onnx import OnnxRunner  # noqa: PLC0415 - the same

    return OnnxRunner(paths, about["threads"])


def _serve(about: dict[str, Any]) -> None:
    before = memory_mib()
    begin = time.perf_counter()
    name, calls = calls_of(about)
    tell({"name": name, "load_s": time.perf_counter() - begin, "memory_before_mib": before})
    for line in sys.stdin:
        order = json.loads(line)
        if order.get("memory"):
            tell({"memory_mib": memory_mib()})
            continue
        seconds = []
        for _ in range(order["repeat"]):
            begin = time.perf_counter()
            own = calls[order["call"]](order["count"])  # a bare graph times itself, without making its input
            took = time.perf_counter() - begin
            seconds.append(own if isinstance(own, float) else took)
        tell({"seconds": seconds})


def tell(answer: dict[str, Any]) -> None:
    """One line of stdout."""
    print(json.dumps(answer), flush=True)


def main() -> int:
    """Serve until stdin ends; returns the exit status."""
    try:
        _serve(json.loads(sys.argv[1]))
    except (MyTalkError, ImportError, OSError) as error:
        tell({"error": str(error).splitlines()[0]})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
