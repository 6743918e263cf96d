"""python -m training.summary."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from training.summary import PUBLISHED, main


def test_json_is_component_to_count_and_nothing_else(capsys):
    assert main(["--size", "tiny", "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert list(counts) == list(PUBLISHED)
    assert counts["total"] == sum(count for name, count in counts.items() if name != "total")


def test_table_shows_both_columns(capsys):
    assert main(["--size", "paper"]) == 0
    shown = capsys.readouterr().out
    assert "237,999,878" in shown
    assert "237M" in shown


def test_an_unknown_size_is_one_line_and_exit_status_1(capsys):
    assert main(["--size", "huge"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "unknown size 'huge'" in captured.err
