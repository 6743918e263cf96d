"""``python -m clients.headless``: talk to a mytalk server without a browser and measure what comes back."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from clients.headless.call import Call, CallOptions, allow_loopback
from clients.headless.errors import BadArgument, ClientError, NothingReceived
from clients.headless.recorder import Recorder
from clients.headless.report import delays, flow, skew
from clients.headless.sources import Microphone, load_speech
from clients.headless.testcard import I16, RATE, click_times, click_train, percentiles

TESTCARD_S = 12.0
TAIL_S = 2.0  # stay this long after the speech, so that its end comes back


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m clients.headless",
        description="Connect to a mytalk server by WebRTC, send speech, record the actor's video, report.",
        epilog="Exit status: 0 fine, 2 bad argument, 3 refused or unreachable, 4 lost, 5 nothing came.",
    )
    p.add_argument("--url", default="http://127.0.0.1:8080", help="the server (default: %(default)s)")
    p.add_argument("--speech", metavar="FILE", help="speech to send: any sound file")
    p.add_argument(
        "--testcard",
        action="store_true",
        help="send a click train and measure the skew of flash and click (actor 'testcard' unless --actor)",
    )
    p.add_argument("--out", metavar="FILE.mp4", help="record what comes back")
    p.add_argument("--json", action="store_true", help="print one JSON object and no progress")
    p.add_argument(
        "--push",
        action="store_true",
        help="push the speech over the data channel, faster than real time, like a TTS",
    )
    p.add_argument("--actor", metavar="NAME", help="which actor (default: the server's)")
    p.add_argument(
        "--token", default=os.environ.get("MYTALK_TOKEN"), help="bearer token (default: $MYTALK_TOKEN)"
    )
    p.add_argument(
        "--seconds", type=float, metavar="N", help="how long to stay (default: the speech and 2 s more)"
    )
    p.add_argument("--hop", type=int, metavar="FRAMES", help="frames made at once (default: the server's)")
    p.add_argument(
        "--lookahead", type=int, metavar="FRAMES", help="frames heard ahead (default: the server's)"
    )
    p.add_argument(
        "--steps", type=int, metavar="N", help="diffusion steps, 0 = the weights' own (default: the server's)"
    )
    return p


def speech_of(args: argparse.Namespace) -> tuple[I16, list[float]]:
    """The samples to send (int16, 48 kHz mono) and the click times in them (seconds)."""
    if args.testcard == bool(args.speech):
        raise BadArgument("give either --speech FILE or --testcard")
    if args.seconds is not None and not 0 < args.seconds <= 3600:
        raise BadArgument("--seconds must be between 0 and 3600")
    if not args.testcard:
        return load_speech(args.speech), []
    seconds = max(3.0, (args.seconds or TESTCARD_S + TAIL_S) - TAIL_S)
    times = click_times(seconds)
    return click_train(seconds, times), times


async def talk(args: argparse.Namespace, on_wait: Callable[[str], None] | None = None) -> dict[str, Any]:
    """One call; returns the report. on_wait: told while the server is preparing the actor."""
    samples, clicks = speech_of(args)
    options = CallOptions(
        args.url,
        args.actor or ("testcard" if args.testcard else None),
        args.token,
        args.hop,
        args.lookahead,
        args.steps,
        on_wait,
    )
    seconds = args.seconds or len(samples) / RATE + TAIL_S
    recorder = Recorder(Path(args.out)) if args.out else None
    microphone = None if args.push else Microphone(samples)
    try:
        async with Call(options, microphone, recorder) as call:
            await call.first_picture()
            pushed_s = await call.push(samples) if microphone is None else None
            # a long push takes as long as the speech but for what the server holds; it counts, too
            pushing_s = 0.0 if pushed_s is None else time.monotonic() - pushed_s
            await call.run(max(0.0, seconds - pushing_s))
        start_s = microphone.started_s if microphone is not None else pushed_s
    finally:
        if recorder is not None:
            await asyncio.to_thread(recorder.close)
    result = report(call, samples, clicks, start_s, pushed=microphone is None)
    if recorder is not None:
        result |= {"recording": args.out, "recorder_dropped": recorder.dropped}
        if recorder.error:
            raise ClientError(recorder.error)
    if args.testcard and result["av_skew_ms"] is None:
        raise NothingReceived("no flash with a click came back; is the actor a test card?")
    return result


def report(
    call: Call, samples: I16, clicks: list[float], start_s: float | None, pushed: bool
) -> dict[str, Any]:
    """The figures of a call. start_s: monotonic time of the first speech sample (captured, or pushed)."""
    seen = call.observed
    shown = flow([p.media_s for p in seen.pictures], [p.arrived_s for p in seen.pictures])
    flashes = [p for p in seen.pictures if p.flash]
    apart = skew(
        [f.arrived_s for f in flashes],
        [c.played_s for c in seen.clicks],
        [call.clocks["video"].ntp_s(f.media_s) for f in flashes],
        [call.clocks["audio"].ntp_s(c.media_s) for c in seen.clicks],
    )
    audio_to_picture, missed = None, None
    if clicks and start_s is not None and not pushed:
        times_ms, pairing = delays([start_s + c for c in clicks], [f.arrived_s for f in flashes])
        audio_to_picture, missed = percentiles(times_ms), len(clicks) - len(pairing.pairs)
    stats = seen.stats()
    return {
        "first_frame_ms": round(1000 * (seen.pictures[0].arrived_s - seen.offered_s), 1),
        "fps": shown.fps,
        "frames": shown.frames,
        "gaps": shown.gaps,
        "av_skew_ms": apart.arrival_ms,
        "av_skew_rtcp_ms": apart.rtcp_ms,
        "flashes": len(flashes) if clicks else None,
        "clicks_missed": missed,
        "audio_to_picture_ms": audio_to_picture,
        "first_talking_ms": first_talking_ms(samples, start_s, seen.loud_s),
        "stalls": shown.stalls,
        "longest_stall_ms": shown.longest_stall_ms,
        "sound_s": round(seen.sound_s, 2),
        "size": seen.size,
        "server": {k: v for k, v in stats[-1].items() if k != "type"} if stats else None,
    }


def first_talking_ms(samples: I16, start_s: float | None, loud_s: list[float]) -> float | None:
    """From the first audible sample (captured or pushed) to its sound, which leaves with its picture."""
    audible = (abs(samples.astype("int32")) > 0.02 * 32767).nonzero()[0]
    if start_s is None or not len(audible):
        return None
    sent_s = start_s + int(audible[0]) / RATE
    after = [at for at in loud_s if at >= start_s]
    return round(1000 * (after[0] - sent_s), 1) if after else None


def show(result: dict[str, Any], console: Console) -> None:
    """A table for people."""
    table = Table(title="What came back", show_header=False)
    for key, value in result.items():
        if value is not None and key != "server":  # a page of figures, for --json
            table.add_row(key, json.dumps(value) if isinstance(value, dict) else str(value))
    console.print(table)


async def talk_with_progress(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the call under a line that shows it is alive."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    quiet = args.json or not console.is_terminal
    with nullcontext() if quiet else Progress(*columns, console=console) as progress:
        if progress is None:
            return await talk(args)
        task = progress.add_task(f"talking to {args.url}", total=None)
        return await talk(args, on_wait=lambda why: progress.update(task, description=why))


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(argv)
    console = Console(stderr=True)
    started_s = time.monotonic()
    try:
        allow_loopback(args.url)
        result = asyncio.run(talk_with_progress(args, console))
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"stopped after {time.monotonic() - started_s:.0f} s", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(result))
    else:
        show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
