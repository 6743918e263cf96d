"""``python benchmarks/soak.py``: hours of a call in simulated time and many real calls: nothing may grow."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

if __package__ in (None, ""):  # run as a file: find our own packages without an installation
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the server does

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.machine import commit, machine, versions
from benchmarks.server_process import ServerFailed, ServerProcess
from benchmarks.simulated_call import CAPTURE_S, Network, SimulatedCall
from benchmarks.soak_cycles import Callers, many
from clients.headless.call import allow_loopback

NETWORKS = (
    Network(ppm=200, loss=0.01, jitter_s=0.05, stall_every_s=600),
    Network(ppm=-200, loss=0.05, jitter_s=0.05, stall_every_s=600, seed=2),
)
LOOK_EVERY_S = 300.0  # simulated, between two looks at memory
RECOVER_S = 6.0  # after a disturbance the delay may stray for so long
DELAY_BAND_S = 0.08  # and then stays within this of its target, which itself follows the jitter
SKEW_S = 0.02
VANISH_S, CONNECT_S = 3.0, 5.0  # settings of the server: how long it waits for those who are gone
QUIET_S = 30.0  # until nobody is left, at most
WARM = 0.25  # share of a run in which caches and the allocator's pools fill …
WARM_CALLS = 80  # … which takes so many calls at least; a shorter run says nothing about memory
SIMULATED_KIB_PER_HOUR = 512.0  # most that a session's process may grow
CYCLE_KIB = 16.0  # most that the server may grow for each call
HELD = ("threads", "files", "tasks")  # what must be given back
FAILED_SHARE = 0.02  # of calls, beyond which the run is worth nothing


@dataclass(frozen=True, slots=True)
class Look:
    """What a process holds. at: simulated hours, or calls made. objects: that Python's collector knows.

    threads: without those of the server's pools, which fill up to their bounds.
    """

    at: float
    rss_kib: float
    threads: int
    files: int
    tasks: int
    objects: int


def process_figures(pid: int | str) -> dict[str, float]:
    """Memory (KiB), threads and open files of a process, from /proc."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "rss_kib": float(fields["VmRSS"].split()[0]),
        "threads": int(fields["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }


def slope(looks: Sequence[Look], key: str, warm_at: float) -> float:
    """Growth per unit of ``at`` after the warm-up: the median of all pairs, so one step does not count."""
    warm = [look for look in looks if look.at >= warm_at]
    pairs = [
        (getattr(b, key) - getattr(a, key)) / (b.at - a.at) for a, b in combinations(warm, 2) if b.at > a.at
    ]
    return median(pairs) if pairs else 0.0


# -- part one: a session for hours, in simulated time -------------------------------------------------------


def simulate(network: Network, hours: float, tick: Callable[[float], None]) -> dict[str, Any]:
    """One session for some simulated hours; ``tick`` is told the seconds that have passed."""
    call, looks = SimulatedCall(network), []
    worst_s, apart, clicks, unseen = 0.0, 0, 0, 0
    steps = max(4, round(hours * 3600 / LOOK_EVERY_S))
    length_s = hours * 3600 / steps
    for step in range(steps):
        report = call.run(length_s)
        target_s = call.pump.session.stats().live.target_s + CAPTURE_S
        worst_s = max([worst_s, *(abs(delay - target_s) for delay in report.settled(RECOVER_S))])
        apart += sum(abs(skew) > SKEW_S for skew in report.skew_s)
        clicks += len(report.delays_s)
        unseen += report.unseen
        report.forget()
        gc.collect()
        figures = process_figures("self")
        looks.append(
            Look(
                (step + 1) * length_s / 3600,
                figures["rss_kib"],
                int(figures["threads"]),
                int(figures["files"]),
                0,
                len(gc.get_objects()),
            )
        )
        tick(length_s)
    stats = call.pump.session.stats()
    return {
        "network": asdict(network),
        "hours": hours,
        "clicks": clicks,
        "worst_delay_error_ms": round(1e3 * worst_s, 1),
        "clicks_apart": apart,
        "clicks_unseen": unseen,
        "starved": call.report.starved,
        "disturbances": call.report.disturbances,
        "late_pictures": stats.late,
        "slices": stats.slices,
        "looks": [asdict(look) for look in looks],
        "rss_kib_per_hour": round(slope(looks, "rss_kib", WARM * hours), 1),
        "objects_per_hour": round(slope(looks, "objects", WARM * hours), 1),
    }


def simulated_faults(result: dict[str, Any]) -> list[str]:
    """What is wrong with one simulated session, a line each."""
    checks = [
        (result["worst_delay_error_ms"] > 1e3 * DELAY_BAND_S, "the delay strayed from its target"),
        (result["clicks_apart"] > 0.005 * result["clicks"], "pictures left apart from their sound"),
        (result["starved"] > result["disturbances"] + 1, "it starved although nothing had happened"),
        (result["rss_kib_per_hour"] > SIMULATED_KIB_PER_HOUR, "memory grows"),
        (result["objects_per_hour"] > 100, "objects pile up"),
    ]
    return [f"simulated at {result['network']['ppm']:+g} ppm: {words}" for bad, words in checks if bad]


# -- part two: real calls ------------------------------------------------------------------------------------


def look_at(server: ServerProcess, calls: int) -> Look:
    """What the server holds once nobody is left in it."""
    deadline_s = time.monotonic() + QUIET_S
    while (figures := metrics_of(server.url))["mytalk_sessions"] and time.monotonic() < deadline_s:
        time.sleep(0.2)
    # What ends by itself after a session: sockets of the last requests, timers; freed memory is given back.
    time.sleep(2.5)
    figures, process = metrics_of(server.url), process_figures(server.pid)
    if figures["mytalk_sessions"]:
        raise ServerFailed(f"{figures['mytalk_sessions']:.0f} sessions are left after {QUIET_S:.0f} s")
    return Look(
        calls,
        process["rss_kib"],
        int(process["threads"] - figures["mytalk_pool_threads"]),
        int(process["files"]),
        int(figures["mytalk_tasks"]),
        0,
    )


def metrics_of(url: str) -> dict[str, float]:
    """Unlabelled figures of ``GET /metrics``."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if line and line[0] != "#" and "{" not in line]
    return {name: float(value) for name, value in pairs}


def cycle(
    server: ServerProcess, callers: Callers, calls: int, together: int, tick: Callable[[float], None]
) -> dict[str, Any]:
    """Many calls; between batches, when nobody is left, what the server holds is noted."""
    begin_s, made = time.monotonic(), 0
    batch = max(together, calls // 40, 4)
    asyncio.run(many(callers, min(batch, calls), together))  # threads and caches that stay are made here
    looks = [look_at(server, 0)]
    while made < calls:
        count = min(batch, calls - made)
        asyncio.run(many(callers, count, together))
        made += count
        looks.append(look_at(server, made))
        tick(count)
    errors = errors_of(server.log())
    return {
        "calls": calls,
        "minutes": round((time.monotonic() - begin_s) / 60, 1),
        "done": dict(callers.tally.done),
        "failed": callers.tally.failed,
        "server_errors": errors,
        "looks": [asdict(look) for look in looks],
        "rss_kib_per_call": round(slope(looks, "rss_kib", max(WARM_CALLS, WARM * calls)), 2),
    }


def errors_of(log: str) -> list[str]:
    """Errors in a server's log, each with the lines that explain it; ten at most."""
    lines = log.splitlines()
    places = [i for i, line in enumerate(lines) if " ERROR " in line]
    return ["\n".join(lines[place : place + 25]) for place in places[:10]]


def cycle_faults(result: dict[str, Any]) -> list[str]:
    """What is wrong after many calls, a line each."""
    looks = result["looks"]
    end = looks[-1]["at"]
    # a connection of the last request may still be open at one look or the other
    before, after = (
        [look for look in looks if look["at"] <= WARM * end],
        [look for look in looks if look["at"] >= (1 - WARM) * end],
    )
    most = {key: max(look[key] for look in before) for key in HELD}
    last = {key: min(look[key] for look in after) for key in HELD}
    checks = [
        (result["rss_kib_per_call"] > CYCLE_KIB, f"memory grows by {result['rss_kib_per_call']} KiB a call"),
        (len(result["failed"]) > FAILED_SHARE * result["calls"] + 1, f"{len(result['failed'])} calls failed"),
        (bool(result["server_errors"]), "the server logged errors"),
    ]
    checks += [(last[key] > most[key], f"{last[key] - most[key]} {key} left over") for key in HELD]
    return [f"calls: {words}" for bad, words in checks if bad]


# -- the command ---------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python benchmarks/soak.py",
        description="Look for what grows. Part one: a session for hours of simulated time, once with a fast "
        "and once with a slow microphone, on a network that loses, delays and stalls. Part two: real calls "
        "to a real server on this machine, some rude. Exit status 1: something grew, strayed or stayed.",
        epilog="docs/benchmarks.md says what is looked at and where the bounds are.",
    )
    p.add_argument(
        "--hours",
        type=float,
        default=10.0,
        metavar="H",
        help="simulated, twice (default %(default)g; 0: none)",
    )
    p.add_argument(
        "--cycles", type=int, default=1000, metavar="N", help="real calls (default %(default)s; 0: none)"
    )
    p.add_argument("--together", type=int, default=4, metavar="K", help="calls at once (default %(default)s)")
    p.add_argument("--actor", metavar="NAME", help="actor to call (default: the server's)")
    p.add_argument("--engine", metavar="NAME", help="engine of the server (default: its own)")
    p.add_argument("--bundle", metavar="DIR", help="weights of the server (default: its own)")
    p.add_argument("--seed", type=int, default=1, metavar="N", help="of callers (default %(default)s)")
    p.add_argument("--json", metavar="OUT", help="write the report here")
    p.add_argument("--plot", metavar="PNG", help="draw what was held over time (needs matplotlib)")
    return p


def server_arguments(args: argparse.Namespace, folder: Path) -> list[str]:
    """Command line of the server: impatient with those who are gone."""
    settings = folder / "soak.toml"
    settings.write_text(f"vanish_after_s = {VANISH_S}\nconnect_deadline_s = {CONNECT_S}\n")
    arguments = ["--config", str(settings), "--max-sessions", str(2 * args.together)]
    for flag, value in (("--engine", args.engine), ("--bundle", args.bundle)):
        arguments += [flag, value] if value else []
    return arguments


def run(args: argparse.Namespace, console: Console, command: Sequence[str] | None = None) -> dict[str, Any]:
    """Both parts under a progress bar. command: run this instead of ``python -m server``."""
    report: dict[str, Any] = {"simulated": [], "calls": None}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        for network in NETWORKS if args.hours else ():
            bar = progress.add_task(f"simulated s, {network.ppm:+g} ppm", total=round(args.hours * 3600))

            def tick(done: float, bar: Any = bar) -> None:
                progress.advance(bar, round(done))

            report["simulated"].append(simulate(network, args.hours, tick))
        if args.cycles:
            bar = progress.add_task("real calls", total=args.cycles)
            with tempfile.TemporaryDirectory() as folder:
                arguments = server_arguments(args, Path(folder))
                with ServerProcess(arguments, command=command) as server:
                    allow_loopback(server.url)
                    callers = Callers(server.url, args.actor, args.seed)
                    report["calls"] = cycle(
                        server, callers, args.cycles, args.together, lambda done: progress.advance(bar, done)
                    )
    faults = [fault for result in report["simulated"] for fault in simulated_faults(result)]
    faults += cycle_faults(report["calls"]) if report["calls"] else []
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    told = {"machine": machine(), "versions": versions(), "commit": commit(), "date": date}
    return {"passed": not faults, "faults": faults, **report, **told}


def show(report: dict[str, Any], console: Console) -> None:
    """A few lines for people."""
    for r in report["simulated"]:
        loss = f"{r['network']['loss']:.0%}"
        spread = f"within {r['worst_delay_error_ms']:g} ms of its target"
        console.print(
            f"{r['hours']:g} h at {r['network']['ppm']:+g} ppm, {loss} loss: delay {spread},"
            f" {r['clicks_apart']} of {r['clicks']} pictures apart,"
            f" {r['starved']} pauses for {r['disturbances']} disturbances,"
            f" {r['rss_kib_per_hour']:+g} KiB and {r['objects_per_hour']:+g} objects an hour"
        )
    if (r := report["calls"]) is not None:
        first, last = r["looks"][0], r["looks"][-1]
        console.print(f"{r['calls']} calls in {r['minutes']:g} min, {len(r['failed'])} failed: {r['done']}")
        for key in HELD:
            console.print(f"  {key}: {first[key]} → {last[key]}")
        console.print(
            f"  memory: {first['rss_kib'] / 1024:.1f} → {last['rss_kib'] / 1024:.1f} MiB,"
            f" {r['rss_kib_per_call']:+g} KiB a call after warm-up"
        )
    for fault in report["faults"]:
        console.print(f"[red]FAILED[/red] {fault}")
    if report["passed"]:
        console.print("[green]passed[/green]")


def plot(report: dict[str, Any], path: str, console: Console) -> None:
    """What was held over time, as a PNG, when matplotlib is installed."""
    try:
        import matplotlib  # noqa: PLC0415 - optional
    except ImportError:
        console.print("matplotlib is not installed: no plot")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), dpi=110)
    for result in report["simulated"]:
        hours = [look["at"] for look in result["looks"]]
        label = f"{result['network']['ppm']:+g} ppm"
        axes[0].plot(hours, [look["rss_kib"] / 1024 for look in result["looks"]], label=label)
    axes[0].set(xlabel="simulated hours", ylabel="MiB", title="one session")
    looks = report["calls"]["looks"] if report["calls"] else []
    calls = [look["at"] for look in looks]
    axes[1].plot(calls, [look["rss_kib"] / 1024 for look in looks], label="server")
    axes[1].set(xlabel="real calls", ylabel="MiB", title="memory of the server")
    for key in HELD:
        axes[2].plot(calls, [look[key] for look in looks], label=key)
    axes[2].set(xlabel="real calls", title="what it holds when nobody is there")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(argv: Sequence[str] | None = None, command: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. command: see ``run``."""
    args = parser().parse_args(argv)
    if not (0 <= args.hours <= 1000 and 0 <= args.cycles <= 100_000 and 1 <= args.together <= 32):
        parser().error("--hours must be 0..1000, --cycles 0..100000 and --together 1..32")
    console = Console(stderr=True)
    try:
        report = run(args, console, command)
    except ServerFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    show(report, console)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        plot(report, args.plot, console)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
