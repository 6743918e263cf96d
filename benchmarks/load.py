"""``python benchmarks/load.py``: how many sessions talk at once on this machine, and where its time goes."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import re
import sys
import time
import urllib.request
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: find our own packages without an installation
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from benchmarks.load_client import Viewer, babble, missing_pictures
from benchmarks.machine import commit, machine, versions
from benchmarks.server_process import ServerFailed, ServerProcess, cpu_seconds
from clients.headless.call import allow_loopback
from clients.headless.errors import ClientError, Refused

SETTLE_S = 2.0  # from the first spoken picture of all sessions to the start of the measurement
LATE_PCT = 1.0  # more late pictures than this: so many sessions are too many
QUIET_TIMEOUT_S, QUIET_EVERY_S, QUIET_RUN, QUIET_CORES = 240.0, 0.5, 4, 0.05
STAGES = ("motion", "draw", "decode", "paste")
PARTS = (*STAGES, "encode", "send", "event_loop", "other", "client")  # order of tables and plots
MOST_STEP_S = 100.0  # the server holds two minutes of unplayed speech


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python benchmarks/load.py",
        description="Start a server, let 1, 2, 3 … real WebRTC sessions talk without a pause, until "
        f"{LATE_PCT:g} % of the pictures are late. The viewers run on the same cores; one of them decodes.",
        epilog="Read docs/benchmarks.md for what each figure means. Run it on a quiet machine.",
    )
    p.add_argument("--sessions", type=int, metavar="N", help="measure N sessions only, without a ramp")
    p.add_argument(
        "--most", type=int, default=16, metavar="N", help="where the ramp ends (default %(default)s)"
    )
    p.add_argument(
        "--idle", type=int, default=0, metavar="N", help="so many more sessions look on and say nothing"
    )
    p.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="length of one step (default %(default)s)"
    )
    p.add_argument(
        "--live", action="store_true", help="they speak through microphones (default: speech is pushed)"
    )
    p.add_argument("--actor", metavar="NAME", help="who talks (default: the server's first)")
    p.add_argument("--engine", metavar="NAME", help="engine of the server (default: its own choice)")
    p.add_argument("--lanes", type=int, metavar="N", help="engine calls at once (default: the server's)")
    p.add_argument("--threads", type=int, metavar="N", help="CPU threads of a call (default: the server's)")
    p.add_argument(
        "--admission",
        action="store_true",
        help="let the server refuse who would not fit (default: it must not)",
    )
    p.add_argument("--config", metavar="TOML", help="settings file of the server")
    p.add_argument("--json", metavar="OUT", help="write the report here (- for standard output)")
    p.add_argument("--plot", metavar="PNG", help="draw where the time goes (needs matplotlib)")
    return p


def scrape(url: str) -> dict[str, float]:
    """The figures of ``/metrics`` that are needed here, by a short name."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        return figures_of(response.read().decode())


def figures_of(text: str) -> dict[str, float]:
    """What is needed of a Prometheus exposition: sums of seconds, slices and packets, and the level.

    Of several processes (label ``process``) it is the sum, and the highest level.
    """
    wanted = {
        r'^mytalk_cpu_seconds_total\{.*?part="(\w+)".*?\} (\S+)': "cpu ",
        r'^mytalk_stage_seconds_sum\{.*?stage="(\w+)".*?\} (\S+)': "stage ",
        r'^mytalk_slices_total\{.*?kind="(\w+)".*?\} (\S+)': "slices ",
        r"^mytalk_(degradation_level)(?:\{.*?\})? (\S+)": "",
        r"^mytalk_(packets)_total(?:\{.*?\})? (\S+)": "",
    }
    found: dict[str, float] = {}
    for pattern, prefix in wanted.items():
        for name, text_value in re.findall(pattern, text, re.M):
            before, value = found.get(prefix + name, 0.0), float(text_value)
            found[prefix + name] = max(before, value) if name == "degradation_level" else before + value
    return found


@dataclass(frozen=True, slots=True)
class Span:
    """Between two scrapes: figures by name, seconds, and processor seconds of server and client."""

    figures: dict[str, float]
    seconds: float
    server_cpu_s: float
    client_cpu_s: float
    level: int = 0  # of degradation, at the end


def wait_until_quiet(pid: int, timeout_s: float = QUIET_TIMEOUT_S) -> bool:
    """Wait until a process does next to nothing for two seconds; False when it never does.

    A server that has just started renders and encodes the idle loops of its actors, quickly while nobody
    looks on and hardly at all while somebody does.
    """
    deadline_s, calm = time.monotonic() + timeout_s, 0
    while calm < QUIET_RUN and time.monotonic() < deadline_s:
        before_s = cpu_seconds(pid) or 0.0
        time.sleep(QUIET_EVERY_S)
        used = ((cpu_seconds(pid) or 0.0) - before_s) / QUIET_EVERY_S
        calm = calm + 1 if used < QUIET_CORES else 0
    return calm >= QUIET_RUN


class Meter:
    """Takes the figures at the beginning of a measurement; ``stop`` gives the difference."""

    def __init__(self, url: str, pid: int) -> None:
        self._url, self._pid = url, pid
        self._begin = scrape(url)
        self._at = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.monotonic(), cpu_seconds(self._pid) or 0.0, time.process_time()

    def stop(self) -> Span:
        """The difference."""
        end, at = scrape(self._url), self._now()
        passed = {name: value - self._begin.get(name, 0.0) for name, value in end.items()}
        seconds, server_s, client_s = (b - a for a, b in zip(self._at, at, strict=True))
        return Span(passed, seconds, server_s, client_s, int(end.get("degradation_level", 0)))


def cpu_by_part(span: Span) -> dict[str, float]:
    """Processor seconds by ``PARTS``. What the lanes used is shared out by the stages' durations."""
    cpu = {name.removeprefix("cpu "): s for name, s in span.figures.items() if name.startswith("cpu ")}
    stages = {stage: span.figures.get(f"stage {stage}", 0.0) for stage in STAGES}
    whole_s = sum(stages.values()) or 1.0
    found = {stage: cpu.get("lanes", 0.0) * seconds / whole_s for stage, seconds in stages.items()}
    found |= {part: cpu.get(part, 0.0) for part in ("encode", "send", "event_loop", "other")}
    return found | {"client": span.client_cpu_s}


def step_figures(span: Span, viewers: list[Viewer], begin_s: float, before: list[Any]) -> dict[str, Any]:
    """One step's figures. before: every session's stats at its beginning and at its end."""
    spoken = sum(last["speech_slices"] - first["speech_slices"] for first, last in before)
    late = sum(last["late_frames"] - first["late_frames"] for first, last in before)
    stamps = [viewer.arrivals.since(begin_s) for viewer in viewers]
    missing = sum(missing_pictures(each) for each in stamps)
    frames = max(1, spoken)
    return {
        "sessions": len(viewers),
        "spoken_pictures": spoken,
        "late_pct": round(100 * (late + missing) / frames, 3),
        "level": span.level,
        "late": late,
        "missing": missing,
        "fps_worst": round(min((len(each) / span.seconds for each in stamps), default=0.0), 2),
        "slack_ms_p5": min((last["slack_ms"]["p5"] for _, last in before if last["slack_ms"]), default=None),
        "server_cores": round(span.server_cpu_s / span.seconds, 3),
        "client_cores": round(span.client_cpu_s / span.seconds, 3),
        "cpu_ms_per_picture": {part: round(1000 * s / frames, 3) for part, s in cpu_by_part(span).items()},
        "send_us_per_packet": round(
            1e6 * span.figures.get("cpu send", 0.0) / max(1.0, span.figures.get("packets", 0.0)), 1
        ),
        "packets_per_s": round(span.figures.get("packets", 0.0) / span.seconds, 1),
        "decoded": viewers[0].decoded if viewers else 0,
        "frame_size": viewers[0].size if viewers else None,
    }


async def talk_step(url: str, pid: int, viewers: list[Viewer], seconds: float) -> dict[str, Any]:
    """All viewers' sessions talk for a while; they are silent again at the end."""
    length_s = SETTLE_S + seconds + 2.0
    await asyncio.gather(*(viewer.say(babble(length_s, seed)) for seed, viewer in enumerate(viewers)))
    await asyncio.sleep(SETTLE_S)
    first = [await viewer.stats() for viewer in viewers]
    begin_s, meter = time.monotonic(), Meter(url, pid)
    await asyncio.sleep(seconds)
    span = meter.stop()
    last = [await viewer.stats() for viewer in viewers]
    figures = step_figures(span, viewers, begin_s, list(zip(first, last, strict=True)))
    await asyncio.sleep(4.0)
    return figures


async def idle_figures(url: str, pid: int, viewers: list[Viewer], seconds: float) -> dict[str, Any]:
    """What sessions cost that say nothing."""
    await asyncio.sleep(SETTLE_S)
    begin_s, meter = time.monotonic(), Meter(url, pid)
    await asyncio.sleep(seconds)
    span = meter.stop()
    stamps = [viewer.arrivals.since(begin_s) for viewer in viewers]
    pictures = max(1, sum(map(len, stamps)))
    return {
        "sessions": len(viewers),
        "fps_worst": round(min(len(each) / span.seconds for each in stamps), 2),
        "missing": sum(missing_pictures(each) for each in stamps),
        "server_cores": round(span.server_cpu_s / span.seconds, 3),
        "client_cores": round(span.client_cpu_s / span.seconds, 3),
        "cpu_ms_per_picture": {p: round(1000 * s / pictures, 3) for p, s in cpu_by_part(span).items()},
    }


async def measure(args: argparse.Namespace, url: str, pid: int, console: Console) -> dict[str, Any]:
    """The idle sessions first, then the ramp beside them."""
    report: dict[str, Any] = {"idle": None, "steps": [], "refused_at": None}
    async with AsyncExitStack() as stack:
        onlookers = [
            await stack.enter_async_context(Viewer(url, args.actor, decode=False)) for _ in range(args.idle)
        ]
        if onlookers:
            report["idle"] = await idle_figures(url, pid, onlookers, args.seconds)
            console.print(f"{args.idle} idle: {report['idle']['server_cores']} cores")
        viewers: list[Viewer] = []
        for count in [args.sessions] if args.sessions else range(1, args.most + 1):
            try:
                while len(viewers) < count:
                    viewer = Viewer(url, args.actor, decode=not viewers, live=args.live)
                    viewers.append(await stack.enter_async_context(viewer))
            except Refused as error:
                report["refused_at"] = {"sessions": count, "message": str(error)}
                console.print(f"{count}: {error}")
                break
            step = await talk_step(url, pid, viewers, args.seconds)
            report["steps"].append(step)
            told = f"{step['late_pct']} % late, {step['server_cores']} cores, level {step['level']}"
            console.print(f"{count} talking: {told}")
            if not in_time(step) and not args.sessions:
                break
    return report


def in_time(step: dict[str, Any]) -> bool:
    """Whether all sessions of a step talked as they were asked to: in time, and not degraded."""
    return bool(step["late_pct"] < LATE_PCT and step["level"] == 0)


def best(report: dict[str, Any]) -> dict[str, Any] | None:
    """The step with the most sessions of those in time; None when even one is too many."""
    good = [step for step in report["steps"] if in_time(step)]
    return max(good, key=lambda step: step["sessions"], default=None)


def server_arguments(args: argparse.Namespace) -> list[str]:
    """Command line of the server that is started."""
    arguments = ["--max-sessions", str((args.sessions or args.most) + args.idle)]
    arguments += [] if args.admission else ["--admit-all"]
    for name in ("engine", "config", "lanes", "threads"):
        value = getattr(args, name)
        arguments += [f"--{name}", str(value)] if value is not None else []
    return arguments


def show(report: dict[str, Any], console: Console) -> None:
    """A table for people."""
    table = Table(title=f"Talking at once in time: {report['talking_in_time']} ({report['engine']})")
    for column in ("sessions", "late %", "level", "fps", "cores", *PARTS):
        table.add_column(column, justify="right")
    for step in report["steps"]:
        parts = [f"{step['cpu_ms_per_picture'].get(part, 0):.2f}" for part in PARTS]
        plain = (step["sessions"], step["late_pct"], step["level"], step["fps_worst"], step["server_cores"])
        table.add_row(*map(str, plain), *parts)
    console.print(table)
    console.print("The parts are milliseconds of processor time for each spoken picture.")


def event_loop() -> type[asyncio.AbstractEventLoop]:
    """The kind that the server has: viewers should cost as little as they can."""
    kind: type[asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
    with suppress(ImportError):  # on Windows
        import uvloop  # noqa: PLC0415

        kind = uvloop.Loop
    return kind


def run(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Start a server and measure it."""
    with ServerProcess(server_arguments(args)) as server:
        allow_loopback(server.url)
        if not wait_until_quiet(server.pid):
            console.print("the server never was quiet: idle loops may still be in the making")
        with urllib.request.urlopen(f"{server.url}/healthz", timeout=10) as response:
            health = json.load(response)
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            report = runner.run(measure(args, server.url, server.pid, console))
    found = best(report)
    told = {"machine": machine(), "versions": versions(), "commit": commit()}
    return {
        "talking_in_time": found["sessions"] if found else 0,
        "engine": health["engine"],
        "late_limit_pct": LATE_PCT,
        "settings": {
            key: getattr(args, key) for key in ("seconds", "idle", "live", "actor", "lanes", "threads")
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **report,
        **told,
    }


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(argv)
    counts_fit = 1 <= (args.sessions or args.most) <= 256 and 0 <= args.idle <= 256
    if not (counts_fit and 2 <= args.seconds <= MOST_STEP_S):
        parser().error(f"--seconds must be 2..{MOST_STEP_S:g}; --sessions, --most 1..256; --idle 0..256")
    console = Console(stderr=True, width=150)
    try:
        report = run(args, console)
    except (ClientError, ServerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status if isinstance(error, ClientError) else 1
    except KeyboardInterrupt:
        return 130
    show(report, console)
    text = json.dumps(report, indent=1)
    if args.json == "-":
        print(text)
    elif args.json:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    if args.plot:
        from benchmarks.load_plot import plot  # noqa: PLC0415 - matplotlib is not needed otherwise

        plot(report, Path(args.plot))
    return 0


if __name__ == "__main__":
    sys.exit(main())
