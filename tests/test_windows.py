"""Sliding windows with the shipped weights: what hop borders, steps and lookahead do to the motion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.spoken import Spoken, against_truth, of_clips, of_sound
from benchmarks.windows import SPEECH, Window, border_ratio, jerk, main, measure, truth
from mytalk.engines import default_bundle, load_engine
from mytalk.landmarks.layout import load_layout


def test_a_border_ratio_tells_a_jump_at_borders() -> None:
    smooth = np.sin(np.arange(400) / 5)[:, None, None].astype(np.float32)
    plain = border_ratio([smooth], 4, 1)
    assert plain is not None
    assert abs(plain - 1) < 0.01
    jumps = smooth + (np.arange(400) // 4 % 2)[:, None, None].astype(np.float32)
    ratio = border_ratio([jumps], 4, 1)
    assert ratio is not None
    assert ratio > 3
    assert border_ratio([smooth], 1, 1) is None
    assert border_ratio([smooth], 2, 2) is None


def test_no_jump_at_hop_borders_at_the_default_and_more_steps_come_closer() -> None:
    engine = load_engine("onnx-fp32", default_bundle(), 1)
    rows = measure(engine, [Window(2, 1, steps) for steps in (1, 2, 4)], [of_sound(SPEECH, 150)])
    assert all(row["border_ratio"]["position"] <= 1.1 for row in rows)
    assert all(row["opening_correlation"] > 0.8 for row in rows)
    assert rows[-1]["distance"] < rows[0]["distance"]
    assert rows[0]["delay_ms"] == 140
    assert rows[0]["mouth_correlation"] is None, "nobody was filmed"


def speaker(opened: np.ndarray, spans: list[tuple[float, float]]) -> Spoken:
    """Someone whose lower lip was filmed ``opened`` [F] below its rest."""
    layout = load_layout()
    moved = np.zeros((len(opened), len(layout.compact), 3), np.float32)
    lower = np.isin(layout.compact, layout.mouth_gap[1])
    moved[:, lower, 1] = np.sign(layout.template[layout.mouth_gap[1], 1].mean()) * opened[:, None]
    zeros = np.zeros((len(opened), 1), np.float32)
    return Spoken("x", zeros, zeros, layout.template, moved, spans)


def test_a_mouth_is_compared_with_the_filmed_one() -> None:
    opened = np.abs(np.sin(np.arange(100) / 6)).astype(np.float32)
    shut_s = [float(k + 0.5) / 25 for k in range(100) if opened[k] < 0.05]
    one = speaker(opened, [(t, t) for t in shut_s])
    assert one.true is not None
    same = {"mouth_correlation": 1.0, "opening_ratio": 1.0, "closure_rate": 1.0}
    assert against_truth([one], [one.true]) == same
    assert against_truth([one], [one.true / 2])["opening_ratio"] == pytest.approx(0.5, abs=0.02)
    assert truth([one]) == {"closure_rate": 1.0, "jerk": round(jerk([one.true]), 5)}
    late = against_truth([one], [np.roll(one.true, 4, axis=0)])
    assert late["mouth_correlation"] is not None
    assert late["mouth_correlation"] < 0.9
    assert late["closure_rate"] == 0.0
    assert against_truth([one], [np.repeat(one.true[:1], 100, axis=0)])["closure_rate"] == 1.0
    assert jerk([np.roll(one.true, 4, axis=0)[:50]]) > 0


def test_a_sweep_over_prepared_clips_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="prepared clips are read by the training code")
    from tests.prepared_data import write_data

    data = write_data(tmp_path / "data")
    said = of_clips(data, None, 1, 20)
    assert all(one.true is not None and one.frames <= 20 for one in said)
    report, picture = tmp_path / "sweep.json", tmp_path / "sweep.png"
    options = ["--hops", "1", "2", "--lookaheads", "1", "--steps", "1", "--clips", "1", "--frames", "20"]
    command = ["--data", str(data), *options, "--json", str(report), "--plot", str(picture)]
    assert main(command) == 0
    found = json.loads(report.read_text())
    assert [(row["hop"], row["delay_ms"]) for row in found["rows"]] == [(1, 100), (2, 140)]
    assert all(-1 <= row["mouth_correlation"] <= 1 for row in found["rows"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    for wrong in (["--steps", "3"], ["--hops", "999"], ["--data", str(tmp_path)]):
        assert main([*command, *wrong]) == 2
        assert capsys.readouterr().err.startswith("error: ")
