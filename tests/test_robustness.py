"""What the robustness table measures: a real session, the shipped motion, without pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from benchmarks import robustness, sounds
from benchmarks.robustness import ROOT, Mouth, Seen, figures
from mytalk.clock import PLAYOUT_SAMPLES_PER_FRAME
from mytalk.engines import default_bundle, load_engine
from tests.fakes import voice

SPEECH = ROOT / "tests" / "data" / "silence_then_speech.wav"


@pytest.fixture(scope="module")
def mouth():
    return Mouth(load_engine("onnx", default_bundle(), 1), ROOT / "actors" / "ada")


def test_silence_leaves_the_idle_face(mouth):
    seen = mouth.says(np.zeros(2 * sounds.RATE_HZ, np.int16))
    assert seen.resting.all()
    found = figures(mouth, seen, speech=False)
    assert (found.mean_pct, found.jitter_pct, found.closed, found.resting) == (0, 0, 1, 1)
    assert found.offset_ms is None


def test_speech_opens_the_mouth_in_time_and_a_late_sound_is_found(mouth):
    seen = mouth.says(sounds.speech_file(SPEECH, 6.0)[2 * sounds.RATE_HZ :])
    assert len(seen.sound) == PLAYOUT_SAMPLES_PER_FRAME * len(seen.displacement)
    found = figures(mouth, seen, speech=True)
    assert found.wide_pct > found.mean_pct > 0
    assert abs(found.offset_ms) <= 40
    late = Seen(np.roll(seen.sound, 3 * PLAYOUT_SAMPLES_PER_FRAME), seen.displacement, seen.resting)
    assert figures(mouth, late, speech=True).offset_ms == pytest.approx(found.offset_ms + 120, abs=30)


def test_parts_and_likeness(mouth):
    seen = Seen(
        np.arange(3 * 48_000, dtype=np.int16),
        np.zeros((75, mouth.engine.spec.compact, 3), np.float32),
        np.ones(75, bool),
    )
    part = seen.part(1, 2)
    assert (len(part.sound), len(part.displacement), len(part.resting)) == (48_000, 25, 25)
    assert part.sound[0] == seen.sound[48_000]
    assert mouth.likeness(seen.displacement) == pytest.approx(1, abs=1e-3)
    assert mouth.likeness(seen.displacement + np.float32([0.1, 0, 0])) < 0.999


def test_the_command_writes_a_table_and_a_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(robustness, "voices", lambda *_: {"a voice": voice(2.5)})
    monkeypatch.setattr(robustness, "others", lambda _: {"silence": np.zeros(96_000, np.int16)})
    out = tmp_path / "r.json"
    assert (
        robustness.main(["--speech", str(tmp_path), "--seconds", "2", "--minutes", "0", "--json", str(out)])
        == 0
    )
    told = capsys.readouterr().out
    assert "| a voice |" in told
    assert "| silence | 0.00 | 0.00 | 0.00 | 100 % |" in told
    report = json.loads(out.read_text())
    assert report["settings"]["actor"] == "ada"
    assert "endless" not in report


def test_a_folder_without_sounds_is_one_line(tmp_path, capsys):
    assert robustness.main(["--speech", str(tmp_path), "--minutes", "0"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
