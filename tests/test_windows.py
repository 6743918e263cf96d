"""Sliding windows with the shipped weights: what hop borders, steps and lookahead do to the motion."""

from __future__ import annotations

import numpy as np

from benchmarks.windows import SPEECH, Window, border_ratio, measure
from mytalk.engines import default_bundle, load_engine


def test_a_border_ratio_tells_a_jump_at_borders() -> None:
    smooth = np.sin(np.arange(400) / 5)[:, None, None].astype(np.float32)
    plain = border_ratio(smooth, 4, 1)
    assert plain is not None
    assert abs(plain - 1) < 0.01
    jumps = smooth + (np.arange(400) // 4 % 2)[:, None, None].astype(np.float32)
    ratio = border_ratio(jumps, 4, 1)
    assert ratio is not None
    assert ratio > 3
    assert border_ratio(smooth, 1, 1) is None
    assert border_ratio(smooth, 2, 2) is None


def test_no_jump_at_hop_borders_at_the_default_and_more_steps_come_closer() -> None:
    engine = load_engine("onnx-fp32", default_bundle(), 1)
    rows = measure(engine, [Window(2, 1, steps) for steps in (1, 2, 4)], SPEECH, 150)
    assert all(row["border_ratio"]["position"] <= 1.1 for row in rows)
    assert all(row["opening_correlation"] > 0.8 for row in rows)
    assert rows[-1]["distance"] < rows[0]["distance"]
    assert rows[0]["delay_ms"] == 140
