"""Figures: rolling percentiles, what counts as late, and the Prometheus text."""

from __future__ import annotations

from collections import deque

import numpy as np

from mytalk.types import AvSlice
from server.metrics import WINDOW, Figures, Metrics, percentiles_ms


def piece(slot: int, speech: bool, late: bool = False, slack_s: float | None = None) -> AvSlice:
    return AvSlice(
        slot, np.zeros(1920, np.int16), None, 0, slot, slot * 1920 if speech else None, late, slack_s, 0
    )


def test_percentiles_of_a_window() -> None:
    assert percentiles_ms(deque()) is None
    values = deque(np.arange(101) / 1000)
    assert percentiles_ms(values) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles_ms(values, (1, 50)) == {"p1": 1.0, "p50": 50.0}


def test_idle_slices_are_never_late_and_speech_slices_count() -> None:
    figures = Figures(Metrics())
    for slot in range(50):
        figures.slice_emitted(piece(slot, False), slot * 0.04, slot * 0.04 + 0.001)
    for slot in range(50, 60):
        late = slot >= 58
        figures.slice_emitted(
            piece(slot, True, late, -0.01 if late else 0.1), slot * 0.04, slot * 0.04 + 0.001
        )
    got = figures.as_json(59 * 0.04 + 0.001, None)
    assert (got["slices"], got["speech_slices"], got["late_frames"], got["late_frames_pct"]) == (
        60,
        10,
        2,
        20.0,
    )
    assert 25 <= got["fps"] <= 26
    assert got["slack_ms"]["p50"] == 100.0
    assert got["emit_lag_ms"]["p95"] == 1.0
    assert got["latency_ms"] is None


def test_latency_is_the_delay_and_what_pacing_and_encoding_took() -> None:
    figures = Figures(Metrics())
    figures.slice_emitted(piece(0, True), 10.0, 10.002)
    figures.stage("encode_send", 0.006)
    assert figures.as_json(10.0, 0.28)["latency_ms"] == 288.0


def test_windows_are_bounded() -> None:
    figures = Figures(Metrics())
    for n in range(3 * WINDOW):
        figures.stage("motion", n)
        figures.slice_emitted(piece(n, True, slack_s=0.1), n * 0.04, n * 0.04)
    assert len(figures.stages_s["motion"]) == len(figures.slack_s) == len(figures.emitted_s) == WINDOW


def test_two_processes_worth_of_metrics_do_not_meet() -> None:
    first, second = Metrics(), Metrics()
    first.sessions.set(3)
    first.stage.labels("motion").observe(0.01)
    assert b"mytalk_sessions 3.0" in first.text()
    assert b"mytalk_sessions 0.0" in second.text()
    assert b'mytalk_stage_seconds_bucket{le="0.01",stage="motion"} 1.0' in first.text()
