"""``python benchmarks/latency.py``: from a spoken sample to its picture, over real loopback WebRTC."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: find our own packages without an installation
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import windows
from benchmarks.machine import commit, machine, versions
from benchmarks.server_process import ServerFailed, ServerProcess, cpu_seconds
from benchmarks.summary import KEYS, CallFigures, call_figures, live_summary
from clients.headless.call import Call, CallOptions, allow_loopback
from clients.headless.errors import ClientError
from clients.headless.network import BadNetwork
from clients.headless.report import delays
from clients.headless.signalling import Signalling
from clients.headless.sources import Microphone
from clients.headless.testcard import click_times, click_train, flashing_tone, percentiles

TAIL_S = 2.0  # a live call stays this long after its last click
SETTLE_S = 1.0  # from the first picture of all calls to the start of the CPU measurement
PUSH_S = 0.5  # length of a pushed utterance
PUSH_EVERY_S = 1.6  # and the distance of two pushes, at least; the mouth is closed again by then
INTERRUPTED_S = 2.0  # length of an utterance that is cut short
INTERRUPTS = 12
STAGGER_S = 0.25  # between two calls, as people do not arrive in the same instant


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python benchmarks/latency.py",
        description="Measure a mytalk server over real WebRTC on this machine. Part one: K calls with a live "
        "microphone send clicks and wait for the test card's flash. Part two: K calls push short utterances "
        "like a TTS. Part three: a call is interrupted. Without --url a server is started on a free loopback "
        "port and its CPU time measured.",
        epilog="Read docs/benchmarks.md for what each figure means.",
    )
    p.add_argument(
        "--seconds", type=float, default=30.0, metavar="N", help="length of part one (default %(default)s)"
    )
    p.add_argument("--sessions", type=int, default=1, metavar="K", help="calls at once (default %(default)s)")
    p.add_argument("--json", metavar="OUT", help="write the report here (- for standard output)")
    p.add_argument("--plot", metavar="PNG", help="draw the two delay distributions (needs matplotlib)")
    p.add_argument("--url", help="measure this server instead of starting one; clocks need the same machine")
    p.add_argument("--token", help="bearer token for --url")
    p.add_argument("--server-pid", type=int, metavar="PID", help="process of --url, for its CPU time")
    p.add_argument(
        "--actor", default="testcard", metavar="NAME", help="actor that flashes (default %(default)s)"
    )
    p.add_argument("--engine", metavar="NAME", help="engine of the server that is started (default: its own)")
    p.add_argument("--config", metavar="TOML", help="settings file of the server that is started")
    p.add_argument("--hop", type=int, metavar="FRAMES", help="frames made at once (default: the server's)")
    p.add_argument(
        "--lookahead", type=int, metavar="FRAMES", help="frames heard ahead (default: the server's)"
    )
    p.add_argument("--loss", type=float, default=0.0, metavar="PCT", help="of the microphones' packets")
    p.add_argument("--jitter", type=float, default=0.0, metavar="MS", help="each of them is late by 0..MS")
    p.add_argument(
        "--sweep",
        nargs=argparse.REMAINDER,
        metavar="OPTION",
        help="instead: the motion model's quality against its delay, hop × lookahead; what follows goes to "
        "benchmarks/windows.py (see its --help)",
    )
    return p


async def live(
    options: CallOptions, seconds: float, sessions: int, pid: int | None, networks: Sequence[BadNetwork]
) -> dict[str, Any]:
    """Part one: K microphones with click trains, all at once; networks: one for each."""
    # trains of different phase, so that the calls' clicks do not fall together
    trains = [click_times(seconds, first_s=2.0 + 0.31 * k) for k in range(sessions)]
    microphones = [Microphone(click_train(seconds, times, seed=k)) for k, times in enumerate(trains)]
    async with AsyncExitStack() as stack:
        calls = []
        for microphone, network in zip(microphones, networks, strict=True):
            calls.append(await stack.enter_async_context(Call(options, microphone, network=network)))
            await asyncio.sleep(STAGGER_S)
        await asyncio.gather(*(call.first_picture() for call in calls))
        await asyncio.sleep(SETTLE_S)
        cpu_before, before_s = cpu_of(pid), time.monotonic()
        await asyncio.gather(*(call.run(seconds) for call in calls))
        cpu_after, after_s = cpu_of(pid), time.monotonic()
        await asyncio.gather(*(call.run(TAIL_S) for call in calls))
    figures: list[CallFigures] = []
    for call, microphone, times in zip(calls, microphones, trains, strict=True):
        start_s = microphone.started_s or 0.0
        figures.append(call_figures(call, [start_s + t for t in times]))
    cores = None
    if cpu_before is not None and cpu_after is not None:
        cores = round((cpu_after - cpu_before) / (after_s - before_s), 3)
    raw = [ms for c in figures for ms in c.delays_ms]
    return {**live_summary(figures), "cpu_cores_used": cores, "raw_audio_to_picture_ms": rounded(raw)}


async def pushed(options: CallOptions, seconds: float, sessions: int) -> dict[str, Any]:
    """Part two: K calls without a microphone push an utterance that starts with a click, again and again."""
    count = max(6, round(seconds / 3))
    utterance = click_train(PUSH_S, [0.0])

    async def one(call: Call) -> tuple[list[float], list[float], int]:
        await call.first_picture()
        starts = []
        for i in range(count):
            starts.append(await call.push(utterance))
            # uneven, so that the pushes fall on every phase of the 40 ms picture
            await call.run(PUSH_EVERY_S + 0.4 * ((i * 0.6180339887) % 1.0))
        flashes = [p for p in call.observed.pictures if p.flash]
        times_ms, pairing = delays(starts, [p.arrived_s for p in flashes])
        sent_ms = [1000 * (flashes[f].sent_s - starts[s]) for s, f in pairing.pairs]
        return times_ms, sent_ms, count - len(pairing.pairs)

    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(sessions):
            calls.append(await stack.enter_async_context(Call(options)))
            await asyncio.sleep(STAGGER_S)
        results = await asyncio.gather(*(one(call) for call in calls))
    raw = [ms for times_ms, _, _ in results for ms in times_ms]
    return {
        "push_to_first_picture_ms": percentiles(raw),
        "push_to_sent_ms": percentiles([ms for _, sent_ms, _ in results for ms in sent_ms]),
        "pushes": count * sessions,
        "pushes_missed": sum(missed for _, _, missed in results),
        "raw_push_to_first_picture_ms": rounded(raw),
    }


async def interrupted(options: CallOptions) -> dict[str, Any]:
    """Part three: a call whose every picture flashes is interrupted; what still flashes then is stale."""
    pictures_ms, sound_ms = [], []
    async with Call(options) as call:
        await call.first_picture()
        for i in range(INTERRUPTS):
            await call.push(flashing_tone(INTERRUPTED_S))
            await call.run(0.6 + 0.4 * ((i * 0.6180339887) % 1.0))
            seen, at_s = call.observed, time.monotonic()
            speaking = seen.pictures[-1].white
            call.send({"type": "interrupt"})
            await call.run(1.0)
            if speaking:  # else the machine was too slow for any picture, and nothing can be stale
                stale_s = [p.sent_s for p in seen.pictures if p.white and p.sent_s > at_s]
                pictures_ms.append(1000 * (max(stale_s, default=at_s) - at_s))
                sound_ms.append(1000 * max(0.0, seen.last_loud_s - at_s))
    return {
        "interrupt_to_last_picture_ms": percentiles(pictures_ms),
        "interrupt_to_last_sound_ms": percentiles(sound_ms),
        "interrupts": len(pictures_ms),
    }


def cpu_of(pid: int | None) -> float | None:
    """CPU seconds of the server so far, None when its process is not known."""
    return None if pid is None else cpu_seconds(pid)


def rounded(values: Sequence[float]) -> list[float]:
    """Milliseconds to a tenth."""
    return [round(v, 1) for v in values]


def ordered(figures: dict[str, Any]) -> dict[str, Any]:
    """The stable keys first, in their order, then the others."""
    missing = [key for key in KEYS if key not in figures]
    if missing:
        raise KeyError(f"the report lacks {missing}")
    return {**{key: figures[key] for key in KEYS}, **figures}


async def measure(args: argparse.Namespace, url: str, pid: int | None) -> dict[str, Any]:
    """Both parts against a running server."""
    options = CallOptions(url, args.actor, args.token, args.hop, args.lookahead)
    told = {"machine": machine(), "versions": versions(), "commit": commit()}
    loss, jitter_s = args.loss / 100, args.jitter / 1000
    networks = [BadNetwork(loss=loss, jitter_s=jitter_s, seed=k) for k in range(args.sessions)]
    first = await live(options, args.seconds, args.sessions, pid, networks)
    second = await pushed(options, args.seconds, args.sessions)
    third = await interrupted(options)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    settings = {"seconds": args.seconds, "hop": args.hop, "lookahead": args.lookahead, "actor": args.actor}
    settings |= {"loss_pct": args.loss, "jitter_ms": args.jitter}
    async with Signalling(url, args.token) as signalling:
        engine = str((await signalling.health()).get("engine", args.engine))
    return ordered(
        {
            **first,
            **second,
            **third,
            **told,
            "engine": engine,
            "sessions": args.sessions,
            "date": date,
            "settings": settings,
        }
    )


def server_arguments(args: argparse.Namespace) -> list[str]:
    """Command line of the server that is started."""
    arguments = ["--max-sessions", str(args.sessions + 1)]
    for flag, value in (("--engine", args.engine), ("--config", args.config)):
        arguments += [flag, value] if value else []
    return arguments


def show(report: dict[str, Any], console: Console) -> None:
    """A table for people."""
    table = Table(title=f"Latency, {report['sessions']} session(s), {report['machine']['cpu']}")
    for column in ("", "p50", "p95", "p99"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {
        "audio → picture decoded (ms)": "audio_to_picture_ms",
        "audio → picture sent (ms)": "audio_to_sent_ms",
        "push → first picture decoded (ms)": "push_to_first_picture_ms",
        "push → first picture sent (ms)": "push_to_sent_ms",
        "interrupt → last stale picture (ms)": "interrupt_to_last_picture_ms",
        "interrupt → last stale sound (ms)": "interrupt_to_last_sound_ms",
    }
    windows = {label: report[key] for label, key in rows.items()}
    windows |= {f"  {name} (ms)": value for name, value in (report["stages_ms"] or {}).items()}
    for label, value in windows.items():
        table.add_row(
            label, *(f"{value[p]:.1f}" if value and p in value else "–" for p in ("p50", "p95", "p99"))
        )
    table.add_section()
    for key in (
        "slack_ms",
        "fps",
        "late_frames_pct",
        "av_skew_ms",
        "av_skew_rtcp_ms",
        "cpu_cores_used",
        "frame_size",
    ):
        table.add_row(key, str(report[key]))
    missed = (
        f"{report['clicks_missed']} of {report['clicks']}, {report['pushes_missed']} of {report['pushes']}"
    )
    table.add_row("clicks, pushes missed", missed)
    console.print(table)


def plot(report: dict[str, Any], path: str, console: Console) -> None:
    """Two cumulative curves as a PNG, when matplotlib is installed."""
    try:
        import matplotlib  # noqa: PLC0415 - optional
    except ImportError:
        console.print("matplotlib is not installed: no plot")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    figure, axes = plt.subplots(figsize=(7, 4), dpi=120)
    for key, label in (
        ("audio_to_picture_ms", "audio → picture"),
        ("push_to_first_picture_ms", "push → picture"),
    ):
        values = sorted(report[f"raw_{key}"])
        axes.step(values, [(i + 1) / len(values) for i in range(len(values))], where="post", label=label)
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("share of events")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def run(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Start a server if needed and measure it under a progress bar."""
    server = nullcontext() if args.url else ServerProcess(server_arguments(args))
    with server as own, Progress(console=console, transient=True) as progress:
        progress.add_task(f"measuring, about {1.7 * args.seconds + 15 + 2 * INTERRUPTS:.0f} s", total=None)
        url, pid = (own.url, own.pid) if own is not None else (args.url, args.server_pid)
        allow_loopback(url)
        return asyncio.run(measure(args, url, pid))


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(argv)
    if args.sweep is not None:
        return windows.main(args.sweep)
    if not (3 <= args.seconds <= 3600 and 1 <= args.sessions <= 64):
        parser().error("--seconds must be 3..3600 and --sessions 1..64")
    if not (0 <= args.loss < 100 and 0 <= args.jitter <= 1000):
        parser().error("--loss must be 0..100 and --jitter 0..1000")
    console = Console(stderr=True)
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
        plot(report, args.plot, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
