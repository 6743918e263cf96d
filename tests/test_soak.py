"""The short form of ``make soak``: nothing is left over, and a fault is found."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.simulated_call import Network
from benchmarks.soak import Look, cycle_faults, errors_of, main, simulate, simulated_faults, slope

FAKE_SERVER = [sys.executable, "-m", "tests.fake_server"]


def test_real_calls_leave_nothing_behind(tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    arguments = ["--hours", "0", "--cycles", "24", "--together", "4", "--seed", "3", "--json", str(report)]
    status = main(arguments, command=FAKE_SERVER)
    told = json.loads(report.read_text())
    assert told["faults"] == []
    assert status == 0
    calls = told["calls"]
    assert sum(calls["done"].values()) >= 24
    assert {"vanishes", "garbage", "speaks"} <= set(calls["done"])
    assert calls["looks"][-1]["tasks"] > 0, "it was looked at"
    assert calls["looks"][-1]["files"] > 5


def test_a_simulated_session_stays_flat() -> None:
    ticks: list[float] = []
    result = simulate(Network(ppm=200, loss=0.01, jitter_s=0.05, stall_every_s=40), 0.03, ticks.append)
    assert sum(ticks) == pytest.approx(108.0)
    assert simulated_faults(result | {"rss_kib_per_hour": 0, "objects_per_hour": 0}) == []
    objects = [look["objects"] for look in result["looks"]]
    assert max(objects[1:]) - min(objects[1:]) < 200
    assert result["clicks"] > 80


def looks(leak: int = 0, threads: int = 0) -> list[dict[str, float]]:
    return [
        asdict(Look(n, 100_000 + leak * n, 10 + threads * (n >= 300), 20, 4, 0)) for n in range(0, 401, 20)
    ]


def result(**changes: object) -> dict[str, object]:
    return {
        "calls": 400,
        "failed": [],
        "server_errors": [],
        "rss_kib_per_call": 0.0,
        "looks": looks(),
    } | changes


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"rss_kib_per_call": 17.0}, "memory grows by 17.0 KiB a call"),
        ({"looks": looks(threads=1)}, "1 threads left over"),
        ({"failed": ["x"] * 10}, "10 calls failed"),
        ({"server_errors": ["ERROR"]}, "the server logged errors"),
    ],
)
def test_what_grew_is_told(changes: dict[str, object], fault: str | None) -> None:
    assert cycle_faults(result(**changes)) == ([] if fault is None else [f"calls: {fault}"])


def test_growth_is_the_slope_after_the_warm_up_and_one_step_is_none() -> None:
    flat = [Look(n, 50 if n < 100 else 500, 1, 1, 1, 0) for n in range(0, 400, 10)]
    assert slope(flat, "rss_kib", 100) == 0
    leak = [Look(n, 3 * n, 1, 1, 1, 0) for n in range(0, 400, 10)]
    assert slope(leak, "rss_kib", 100) == pytest.approx(3)
    assert slope(leak[:2], "rss_kib", 100) == 0


def test_errors_in_the_log_are_shown_with_what_follows() -> None:
    (error,) = errors_of("INFO x\n1 ERROR asyncio: broken\nTraceback\nValueError: y")
    assert error.endswith("ValueError: y")
    assert errors_of("all is well") == []


def test_bad_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--hours", "-1"], ["--cycles", "x"], ["--together", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    assert "error" in capsys.readouterr().err


def test_a_server_that_does_not_start_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--hours", "0", "--cycles", "4"], command=[sys.executable, "-c", "print('broken')"])
    assert status == 1
    assert "error: the server ended with status 0: broken" in capsys.readouterr().err
