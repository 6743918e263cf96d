"""The throughput benchmark: one step of anything, rows that fail or take too long."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from benchmarks.training import main


def run(tmp_path, *more, status=0):
    out = tmp_path / "results" / "training.json"
    given = ["--threads", "1", "--device", "cpu", "--precisions", "32-true", "--json", str(out), *more]
    assert main(given) == status
    return json.loads(out.read_text())


def test_one_step_is_one_picture_once(tmp_path, capsys):
    report = run(tmp_path, "--sizes", "tiny", "--trainers", "appearance", "--one-step")
    (row,) = report["rows"]
    assert (row["frames_per_step"], row["steps_measured"], row["steps_before"]) == (1, 1, 0)
    assert row["step_s"] > 0
    assert row["peak_process_gb"] > 0.1
    assert report["machine"]["cores"] >= 1
    assert "Training throughput" in capsys.readouterr().out


def test_a_row_that_fails_or_takes_too_long_says_so_and_the_rest_is_written(tmp_path, capsys):
    report = run(tmp_path, "--size", "tiny", "--trainers", "identity", "--limit-s", "0.01", status=1)
    assert report["rows"][0]["error"] == "not over within 0.01 s"
    report = run(tmp_path, "--size", "huge", "--trainers", "identity", status=1)
    assert "unknown size 'huge'" in report["rows"][0]["error"]
    assert "unknown size" in capsys.readouterr().out
