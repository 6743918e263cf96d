"""``python benchmarks/browser.py``: from a spoken sample to its picture on the screen of a real Chromium."""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: find our own packages without an installation
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import commit, machine, versions
from benchmarks.server_process import ServerFailed, ServerProcess
from clients.headless.report import delays
from clients.headless.testcard import click_times, click_train, percentiles

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",
    "--disable-background-networking",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
CONNECT_S = 60.0
SETTLE_S = 3.0  # the browser's buffers find their depth
PUSH_S = 0.5
PUSH_EVERY_S = 1.6  # the mouth is closed again by then

# The page's own code runs as it is: only its microphone is a track that plays our clicks, its actor is
# the test card, and its data channel is kept for pushes. A flash is noted with the time at which
# Chromium shows it. The least offset that was ever seen between the clocks tells when a sample was
# captured at the earliest.
HOOK = """
window.probe = { flashes: [], offset: Infinity, channel: null };
const train = Uint8Array.from(atob(TRAIN), (c) => c.charCodeAt(0)).buffer;
navigator.mediaDevices.getUserMedia = async () => {
  const context = new AudioContext({ sampleRate: 48000 });
  const watch = () => {
    probe.offset = Math.min(probe.offset, performance.now() / 1000 - context.currentTime);
    setTimeout(watch, 3);
  };
  watch();
  const samples = Float32Array.from(new Int16Array(train), (x) => x / 32768);
  const buffer = context.createBuffer(1, samples.length, 48000);
  buffer.copyToChannel(samples, 0);
  const source = Object.assign(context.createBufferSource(), { buffer });
  const out = context.createMediaStreamDestination();
  source.connect(out);
  probe.speak = () => { probe.spoken = context.currentTime + 0.2; source.start(probe.spoken); };
  return out.stream;
};
const ask = window.fetch;
window.fetch = (path, options) => {
  if (!String(path).endsWith("offer")) return ask(path, options);
  return ask(path, { ...options, body: JSON.stringify({ ...JSON.parse(options.body), actor: "testcard" }) });
};
const open = RTCPeerConnection.prototype.createDataChannel;
RTCPeerConnection.prototype.createDataChannel = function (...given) {
  return probe.channel = open.apply(this, given);
};
probe.push = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const at = performance.now() / 1000;
  probe.channel.send(JSON.stringify({ type: "start", rate: 48000 }));
  for (let i = 0; i < bytes.length; i += 16384) probe.channel.send(bytes.subarray(i, i + 16384));
  probe.channel.send(JSON.stringify({ type: "end" }));
  return at;
};
probe.watch = () => {
  const video = document.getElementById("video");
  const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let white = true;
  video.requestVideoFrameCallback(function look(now, frame) {
    context.drawImage(video, 20, 20, 200, 200, 0, 0, 8, 8);
    const pixels = context.getImageData(0, 0, 8, 8).data;
    const flash = pixels.every((x) => x > 210);
    if (flash && !white) probe.flashes.push({ shown: frame.expectedDisplayTime / 1000, decoded: now / 1000 });
    white = flash;
    video.requestVideoFrameCallback(look);
  });
};
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python benchmarks/browser.py",
        description="Measure the page in headless Chromium on this machine. Part one: clicks captured by its "
        "microphone → the test card's flash on the screen. Part two: short utterances, pushed like a TTS → "
        "their first picture.",
        epilog="Needs Chromium and playwright. docs/benchmarks.md says what each figure means.",
    )
    p.add_argument("--seconds", type=float, default=60.0, help="length of part one (default %(default)s)")
    p.add_argument("--pushes", type=int, default=20, help="utterances of part two (default %(default)s)")
    p.add_argument("--engine", metavar="NAME", help="engine of the server (default: its own)")
    p.add_argument("--json", metavar="OUT", help="write the report here")
    return p


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Raises ``ServerFailed`` when it does not happen."""
    deadline_s = time.monotonic() + CONNECT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise ServerFailed(f"{what} within {CONNECT_S:.0f} s")
        time.sleep(0.1)


def begin(page: Any, url: str) -> None:
    """A call of the page to the test card, its picture watched."""
    page.goto(url)
    page.wait_for_selector(".actor")
    page.click("#start")
    wait_for(lambda: page.get_attribute("#frame", "data-on") == "true", "no picture")
    page.evaluate("probe.watch()")
    time.sleep(SETTLE_S)


def live(page: Any, seconds: float) -> dict[str, Any]:
    """Part one."""
    clicks = click_times(seconds)
    page.evaluate("probe.speak()")
    time.sleep(seconds + 2.0)
    probe = page.evaluate("({ flashes: probe.flashes, start: probe.spoken + probe.offset })")
    shown_ms, pairing = delays([probe["start"] + t for t in clicks], [f["shown"] for f in probe["flashes"]])
    return {
        "capture_to_screen_ms": percentiles(shown_ms),
        "clicks": len(clicks),
        "clicks_missed": len(clicks) - len(pairing.pairs),
        "raw_capture_to_screen_ms": [round(ms, 1) for ms in shown_ms],
    }


def pushed(page: Any, count: int) -> dict[str, Any]:
    """Part two; the microphone is quiet by then."""
    utterance = base64.b64encode(click_train(PUSH_S, [0.0]).tobytes()).decode()
    page.evaluate("probe.flashes = []; probe.channel.readyState")
    starts = []
    for i in range(count):
        starts.append(page.evaluate("(text) => probe.push(text)", utterance))
        time.sleep(PUSH_EVERY_S + 0.4 * ((i * 0.6180339887) % 1.0))  # every phase of the 40 ms picture
    flashes = page.evaluate("probe.flashes")
    decoded_ms, pairing = delays(starts, [f["decoded"] for f in flashes])
    return {
        "push_to_decoded_ms": percentiles(decoded_ms),
        "pushes": count,
        "pushes_missed": count - len(pairing.pairs),
        "raw_push_to_decoded_ms": [round(ms, 1) for ms in decoded_ms],
    }


def measure(args: argparse.Namespace, program: str) -> dict[str, Any]:
    """Both parts, with a server of our own."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - optional

    told = {"machine": machine(), "versions": versions(), "commit": commit()}
    train = base64.b64encode(click_train(args.seconds, click_times(args.seconds)).tobytes()).decode()
    arguments = ["--engine", args.engine] if args.engine else []
    with ServerProcess(arguments) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        page = browser.new_page()
        page.add_init_script(HOOK.replace("TRAIN", json.dumps(train)))
        begin(page, server.url)
        report = {**live(page, args.seconds), **pushed(page, args.pushes), "chromium": browser.version}
        browser.close()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**report, **told, "date": date}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(argv)
    if not (3 <= args.seconds <= 3600 and 1 <= args.pushes <= 1000):
        parser().error("--seconds must be 3..3600 and --pushes 1..1000")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print(f"error: no Chromium here (looked for {', '.join(BROWSERS)})", file=sys.stderr)
        return 1
    print(f"measuring, about {args.seconds + 2 * args.pushes + 20:.0f} s", file=sys.stderr)
    try:
        report = measure(args, program)
    except ImportError:
        print("error: playwright is missing: pip install playwright", file=sys.stderr)
        return 1
    except ServerFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = {
        key: value for key, value in report.items() if key.endswith("_ms") and not key.startswith("raw_")
    }
    for key, value in {
        **shown,
        "clicks_missed": report["clicks_missed"],
        "pushes_missed": report["pushes_missed"],
    }.items():
        print(f"{key:24} {value}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
