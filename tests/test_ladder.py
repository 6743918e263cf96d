"""The ladder of levers: what it counts, what it feeds a decoder of each size, and what it crops."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from rich.console import Console  # noqa: E402

from benchmarks import ladder  # noqa: E402
from mytalk.models.serving import decoder_of  # noqa: E402


def test_the_paper_size_costs_what_the_issue_says():
    with torch.device("meta"):
        model = ladder.build("paper", "meta")
    given = ladder.make_inputs(model, 1, "meta")
    assert ladder.count_flops(decoder_of(model), given) / 1e12 == pytest.approx(9.5, rel=0.05)


def test_the_tiny_size_takes_what_sessions_give_it(monkeypatch):
    """Its references are windows of their own shape, and its decoder does more than convolve."""
    monkeypatch.setattr(ladder, "LADDER", ladder.LADDER[:2])
    rows = ladder.climb("tiny", (2,), "cpu", {"fp32": 1e11}, Console(quiet=True))
    assert [row["lever"] for row in rows] == ["fp32", "bf16 channels-last"]
    assert not [row for row in rows if "not_run" in row]
    # what the shipped decoder counts: 0.93 G multiply-adds
    assert rows[0]["tflop_per_frame"] == pytest.approx(2 * 0.93e9 / 1e12, rel=0.05)
    assert rows[0]["agreement_db"] > 90
    assert 25 < rows[1]["agreement_db"] < 90


def test_the_shown_window_holds_the_mask_and_is_smaller_than_the_picture():
    rows, columns = ladder.shown_window(64)
    assert (rows.stop - rows.start) * (columns.stop - columns.start) < 0.7 * 64 * 64
    assert all(place % 4 == 0 for place in (rows.start, rows.stop, columns.start, columns.stop))
