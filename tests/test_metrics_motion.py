"""Motion metrics with known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import from_canonical
from tests.small_actor import still_poses, template_face
from training.metrics_motion import closed_below, closed_spans, closing_spans, landmark_distance_pct


def test_distance_is_in_percent_of_the_eyes_distance():
    poses, face = still_poses(4, scale=50.0), template_face(4)
    true = from_canonical(face, poses)
    assert landmark_distance_pct(true, true, poses) == pytest.approx(0, abs=1e-4)
    moved = face.copy()
    moved[:, load_layout().compact, 1] += 0.02
    assert landmark_distance_pct(from_canonical(moved, poses), true, poses) == pytest.approx(2, abs=1e-3)
    eyes_only = face.copy()
    eyes_only[:, load_layout().upper] += 0.1
    assert landmark_distance_pct(from_canonical(eyes_only, poses), true, poses) == pytest.approx(0, abs=1e-4)


def test_lips_that_close_once_in_time_count():
    opening = np.full(50, 0.3, np.float32)
    opening[[10, 30]] = 0.0
    limit = closed_below(np.concatenate([opening, np.zeros(20, np.float32)]))
    assert 0.02 <= limit < 0.1
    spans = [(10 / 25, 11 / 25), (20 / 25, 21 / 25), (1.19, 1.21), (5.0, 5.1)]
    assert closed_spans(opening, spans, limit) == (
        2,
        3,
    )  # frame 30's middle is 1.22 s, within half a frame; 5 s is outside
    assert closed_spans(np.zeros(50, np.float32), spans, limit) == (3, 3)


def test_phoneme_times_and_grid_words_are_read(tmp_path):
    exact, words, plain = (tmp_path / f"{name}.mp4" for name in ("exact", "words", "plain"))
    phonemes = [["pau", 0, 0.2], ["b", 0.2, 0.25], ["ih", 0.25, 0.4], ["m", 0.4, 0.5]]
    exact.with_suffix(".json").write_text(json.dumps({"phonemes": phonemes}))
    assert closing_spans(exact) == [(0.2, 0.25), (0.4, 0.5)]
    words.with_suffix(".align").write_text(
        "0 12500 sil\n12500 25000 bin\n25000 30000 red\n30000 31000 sp\n31000 40000 p\n"
    )
    assert closing_spans(words) == [(0.5, 1.0), (1.24, 1.6)]
    assert closing_spans(plain) is None
    plain.with_suffix(".align").write_text("early late bin\n")
    with pytest.raises(BadInput, match="cannot be read"):
        closing_spans(plain)
