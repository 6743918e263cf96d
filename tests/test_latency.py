"""The latency benchmark: its arithmetic, its report's keys, one short run against a peer of known delay."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from reference_peer import Plan, ReferencePeer
from rich.console import Console

from benchmarks import latency
from benchmarks.machine import commit, machine, versions
from benchmarks.server_process import ServerFailed, ServerProcess, cpu_seconds, free_port
from benchmarks.summary import KEYS, CallFigures, live_summary, merge_stages, merge_windows

ISSUE_KEYS = [
    *("audio_to_picture_ms", "push_to_first_picture_ms", "slack_ms", "stages_ms", "fps", "late_frames_pct"),
    *("av_skew_ms", "sessions", "cpu_cores_used", "engine", "frame_size", "commit", "machine"),
]


def figures(**changes: object) -> CallFigures:
    given: dict[str, object] = {
        "delays_ms": (300.0, 310.0),
        "sent_ms": (290.0, 302.0),
        "missed": 1,
        "fps": 25.0,
        "frames": 500,
        "gaps": 2,
        "skew_ms": 4.0,
        "skew_rtcp_ms": None,
        "size": (512, 512),
        "stats": (
            {"slack_ms": {"p50": 60.0, "p95": 80.0}, "late_frames": 0, "speech_slices": 100},
            {
                "slack_ms": {"p50": 50.0, "p95": 90.0},
                "stages_ms": {"decode": {"p50": 9.0, "p95": 12.0}},
                "late_frames": 3,
                "speech_slices": 400,
            },
        ),
    }
    return CallFigures(**{**given, **changes})  # type: ignore[arg-type]


def test_keys_are_the_stable_ones() -> None:
    assert list(KEYS) == ISSUE_KEYS


def test_live_summary_counts_repeated_and_missing_pictures_as_late() -> None:
    summary = live_summary([figures(), figures(fps=24.0, gaps=0, skew_ms=8.0)])
    assert summary["late_frames_pct"] == pytest.approx(100 * (3 + 3 + 2) / 800)
    assert summary["fps"] == 24.0, "the slowest session counts"
    assert (summary["clicks"], summary["clicks_missed"]) == (6, 2)
    assert summary["audio_to_sent_ms"]["p50"] == pytest.approx(296.0, abs=6.1)
    assert summary["av_skew_ms"] == 6.0
    assert summary["av_skew_rtcp_ms"] is None
    assert summary["frame_size"] == [512, 512]
    assert summary["slack_ms"] == {"p50": 55.0, "p95": 90.0}
    assert summary["stages_ms"] == {"decode": {"p50": 9.0, "p95": 12.0}}


def test_a_server_without_stats_still_gives_a_report() -> None:
    summary = live_summary([figures(stats=())])
    assert summary["late_frames_pct"] == pytest.approx(100 * 2 / 500)
    assert summary["slack_ms"] is None


def test_windows_merge_to_the_median_of_medians_and_the_worst_tails() -> None:
    windows = [{"p5": 4.0, "p50": 10.0, "p95": 20.0}, {"p5": 2.0, "p50": 30.0, "p95": 15.0}]
    assert merge_windows(windows) == {"p5": 2.0, "p50": 20.0, "p95": 20.0}
    assert merge_windows([]) is None
    assert merge_stages([{}, {"motion": {"p50": 1.0}}, {"motion": None}]) == {"motion": {"p50": 1.0}}


def test_the_report_has_the_stable_keys_first_and_refuses_to_lack_one() -> None:
    full = {"extra": 1, **dict.fromkeys(KEYS, 0)}
    assert list(latency.ordered(full))[: len(KEYS)] == list(KEYS)
    del full["fps"]
    with pytest.raises(KeyError, match="fps"):
        latency.ordered(full)


async def test_a_short_real_run_measures_a_known_delay(tmp_path: Path) -> None:
    async with ReferencePeer(Plan(delay_s=0.2)) as peer:
        args = latency.parser().parse_args(["--url", peer.url, "--seconds", "5"])
        report = await latency.measure(args, peer.url, os.getpid())
    assert list(report)[: len(KEYS)] == list(KEYS)
    # at least the peer's own delay less half a picture, and no bound on speed: the machine may be busy
    assert report["audio_to_picture_ms"]["p50"] > 150
    assert report["push_to_first_picture_ms"]["p50"] > 0
    assert report["frame_size"] == [192, 192]
    assert report["engine"] == "reference"
    assert report["cpu_cores_used"] is None or report["cpu_cores_used"] > 0
    assert -60 < report["av_skew_ms"] < 120
    console = Console(record=True, width=100)
    latency.show(report, console)
    assert "push → first picture" in console.export_text()
    if "matplotlib" in sys.modules or versions_has_matplotlib():
        latency.plot(report, str(tmp_path / "plot.png"), console)
        assert (tmp_path / "plot.png").stat().st_size > 1000


def versions_has_matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def test_bad_arguments_and_unreachable_servers_exit_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        latency.main(["--seconds", "1"])
    capsys.readouterr()
    assert latency.main(["--url", f"http://127.0.0.1:{free_port()}", "--seconds", "3"]) == 3
    assert "error: cannot reach" in capsys.readouterr().err


def test_a_server_that_dies_is_reported_with_its_last_words() -> None:
    script = "import sys; print('first'); print('no such engine'); sys.exit(3)"
    with (
        pytest.raises(ServerFailed, match="status 3: no such engine"),
        ServerProcess(command=[sys.executable, "-c", script]),
    ):
        pass


def test_a_server_process_is_started_measured_and_stopped() -> None:
    script = (
        "import http.server, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    asked = 0\n"
        "    def do_GET(self):\n"
        "        H.asked += 1\n"
        "        busy = b'[]' if H.asked > 2 else b'[\"ada\"]'\n"
        "        self.send_response(200); self.end_headers()\n"
        '        self.wfile.write(b\'{"asked": %d, "preparing": %s}\' % (H.asked, busy))\n'
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[4])), H).serve_forever()\n"
    )
    server = ServerProcess(command=[sys.executable, "-c", script])
    with server:
        with urllib.request.urlopen(server.url) as answer:
            assert json.load(answer)["asked"] == 4, "it was waited for until nothing was prepared any more"
        used = cpu_seconds(server.pid)
        assert used is None or used >= 0
        started = time.monotonic()
    assert time.monotonic() - started < 15
    assert server.stop() is not None


def test_machine_says_what_was_measured_on() -> None:
    told = machine()
    assert told["cores"] >= 1
    assert set(versions()) >= {"aiortc", "av", "numpy"}
    assert commit() is None or len(commit() or "") >= 12
    assert cpu_seconds(2**22 + 1) is None


def test_the_sweep_is_that_of_the_windows_and_takes_its_options(tmp_path: Path) -> None:
    out = tmp_path / "sweep.json"
    options = ["--hops", "1", "2", "--lookaheads", "1", "--steps", "1", "--frames", "8", "--json", str(out)]
    assert latency.main(["--sweep", *options]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["hop"], row["lookahead"], row["delay_ms"]) for row in rows] == [(1, 1, 100), (2, 1, 140)]
    assert latency.main(["--sweep", "--steps", "77"]) == 2
