"""The things that are drawn in front of mouths, and what is counted."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.covered import CANVAS, THINGS, covered_by, drawing, main
from mytalk.landmarks.layout import load_layout
from mytalk.video.media import read_frames
from tests.small_actor import TALKING_FACE

SKIN = (196, 150, 128)


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_hides_the_lips_while_it_is_there_and_nothing_before_or_after(thing: str) -> None:
    assert drawing(thing, SKIN).shape == (CANVAS, CANVAS, 4)
    points = np.repeat(load_layout().template[None] * 60 + (128, 110, 0), 40, axis=0).astype(np.float32)
    points[18] = np.nan  # a moment without a face
    pictures = [np.full((256, 256, 3), SKIN, np.uint8)] * 40
    shown, hidden = covered_by(pictures, points, thing)
    there = np.delete(np.arange(16, 28), 18 - 16)
    assert hidden[there].min() > 0.8
    assert not hidden[:9].any()
    assert not hidden[35:].any()
    assert all(shown[n] is pictures[n] for n in (0, 18, 39))
    assert np.abs(shown[20].astype(int) - pictures[20]).max() > 20


@pytest.mark.mediapipe
def test_a_clip_is_counted_as_it_is_and_covered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    report = tmp_path / "r.json"
    argv = [str(TALKING_FACE), str(text), "--pictures", "40", "--thing", "foam", "--json", str(report)]
    assert main(argv) == 0
    plain, foam = json.loads(report.read_text())["rows"]
    frames = len(list(islice(read_frames(TALKING_FACE), 40)))
    assert (plain["thing"], plain["clear"], plain["false"], plain["hidden"]) == (None, frames, 0, 0)
    assert foam["hidden"] >= 11
    assert foam["found"] == foam["hidden"]
    assert foam["false"] == 0
    told = capsys.readouterr()
    assert "foam" in told.out
    assert told.err.startswith("left out: ")
    assert main([str(text)]) == 1
