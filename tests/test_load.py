"""benchmarks/load.py: what it reads, adds up, and does with a server whose device is a fake."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import load
from benchmarks.load_client import Viewer, babble, missing_pictures
from benchmarks.server_process import ServerProcess
from clients.headless.errors import Refused
from server.many.figures import merged
from server.metrics import Metrics
from tests.server_fakes import running


def test_it_reads_what_the_server_tells() -> None:
    metrics = Metrics()
    metrics.stage.labels("decode").observe(0.25)
    metrics.slices.labels("late").inc(3)
    found = load.figures_of(metrics.text().decode())
    assert found["stage decode"] == 0.25
    assert found["slices late"] == 3.0
    assert found["cpu event_loop"] > 0
    assert "packets" in found


def test_figures_of_several_processes_are_added_up() -> None:
    texts = {}
    for process, level in (("0", 2), ("1", 1)):
        metrics = Metrics()
        metrics.slices.labels("late").inc(3)
        metrics.stage.labels("decode").observe(0.25)
        metrics.degradation.set(level)
        texts[process] = metrics.text().decode()
    found = load.figures_of(merged(texts, {}).decode())
    assert found["stage decode"] == 0.5
    assert found["slices late"] == 6.0
    assert found["degradation_level"] == 2.0
    assert "packets" in found
    assert found["cpu event_loop"] > 0


def test_pictures_that_never_came_are_counted_across_the_wrap() -> None:
    assert missing_pictures([]) == missing_pictures([5]) == 0
    assert missing_pictures([0, 3600, 7200]) == 0
    assert missing_pictures([0, 3600, 14_400]) == 2
    start = 2**32 - 3600
    assert missing_pictures([start, 0, 7200]) == 1


def test_lanes_are_shared_out_by_the_stages_durations() -> None:
    figures = {
        "cpu lanes": 4.0,
        "stage motion": 1.0,
        "stage decode": 3.0,
        "cpu encode": 0.5,
        "cpu send": 0.25,
    }
    parts = load.cpu_by_part(load.Span(figures, 10.0, 5.0, 2.0))
    assert parts["motion"] == 1.0
    assert parts["decode"] == 3.0
    assert parts["paste"] == 0.0
    assert (parts["encode"], parts["send"], parts["client"]) == (0.5, 0.25, 2.0)
    assert set(parts) == set(load.PARTS)


def test_the_best_step_is_the_fullest_in_time() -> None:
    found = ((1, 0.0, 0), (2, 0.9, 0), (3, 0.9, 1), (4, 40.0, 0))  # at level 1 they talk less smoothly
    steps = [{"sessions": n, "late_pct": late, "level": level} for n, late, level in found]
    assert load.best({"steps": steps})["sessions"] == 2
    assert load.best({"steps": steps[2:]}) is None


async def test_a_viewer_counts_without_decoding_and_one_that_decodes_sees_the_pictures() -> None:
    async with running(max_sessions=2) as url:
        async with Viewer(url, None, decode=False) as blind, Viewer(url, "bob", decode=True) as seeing:
            await blind.say(babble(1.0, 0))
            await asyncio.sleep(1.5)
            assert (await blind.stats())["speech_slices"] > 10
            await seeing.until(lambda: seeing.decoded > 5, 10.0, "no picture was decoded")
            assert seeing.size == (96, 96)
            assert blind.decoded == 0
            assert blind.arrivals.packets > len(blind.arrivals.pictures) > 5
            with pytest.raises(Refused, match="taken"):
                async with Viewer(url, None, decode=False):
                    pass
        await seeing.close()  # again


async def test_a_viewer_can_speak_through_a_microphone_again_and_again() -> None:
    async with running(max_sessions=1) as url, Viewer(url, None, decode=False, live=True) as viewer:
        before = (await viewer.stats())["speech_slices"]
        for _ in range(2):
            await viewer.say(babble(0.6, 0))
            await asyncio.sleep(1.2)
        told = await viewer.stats()
        assert told["speech_slices"] > before + 20
        assert told["latency_ms"] is not None, "its delay is a microphone's"


def test_a_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fake_server"]
    monkeypatch.setattr(load, "ServerProcess", lambda arguments: ServerProcess(arguments, command))
    monkeypatch.setattr(load, "SETTLE_S", 0.5)
    report, picture = tmp_path / "load.json", tmp_path / "load.png"
    run = ["--sessions", "2", "--idle", "1", "--seconds", "2", "--json", str(report), "--plot", str(picture)]
    assert load.main(run) == 0
    told = json.loads(report.read_text())
    (step,) = told["steps"]
    assert step["sessions"] == 2
    assert step["spoken_pictures"] > 20
    assert step["decoded"] > 10
    assert step["frame_size"] == [512, 512]
    assert set(step["cpu_ms_per_picture"]) == set(load.PARTS)
    assert step["cpu_ms_per_picture"]["event_loop"] > 0
    assert told["idle"]["sessions"] == 1
    assert told["engine"] == "fake"
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("wrong", [["--seconds", "1"], ["--sessions", "500"], ["--idle", "-1"]])
def test_wrong_numbers_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load.main(wrong)
    assert "--seconds must be 2" in capsys.readouterr().err


def test_it_waits_until_a_process_is_quiet() -> None:
    burn = "import time\nend = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", burn]) as process:
        try:
            begin = time.monotonic()
            assert not load.wait_until_quiet(process.pid, timeout_s=1.0)
            assert load.wait_until_quiet(process.pid, timeout_s=60.0)
            assert time.monotonic() - begin > 1.5
        finally:
            process.kill()
