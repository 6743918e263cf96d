"""The gallery: which moments are shown, and one whole picture of the fixture."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.errors import BadInput
from mytalk.video.media import read_at_rate, read_speech
from tests.small_actor import RATE, write_video
from training import gallery

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"


def source_of(opening):
    opened = np.asarray(opening, np.float32)
    track = SimpleNamespace(opening=opened)
    return SimpleNamespace(frames=len(opened), track=track, scored=np.ones(len(opened), bool))


def test_the_widest_mouths_are_apart_and_never_references():
    opened = np.abs(np.sin(np.arange(200) / 7))
    source = source_of(opened)
    frames = [moment.frame for moment in gallery.widest(source)]
    assert len(frames) == gallery.COLUMNS
    assert min(np.diff(frames)) >= gallery.APART
    assert min(opened[frames]) > 0.9
    source.scored[frames[0]] = False
    assert frames[0] not in [moment.frame for moment in gallery.widest(source)]


def test_moments_lie_where_the_mouth_moves():
    opened = np.concatenate([np.zeros(100), np.linspace(0.1, 0.2, 100)])
    frames = [moment.frame for moment in gallery.evenly(source_of(opened))]
    assert frames[0] >= 100
    assert frames[-1] == 199


def test_sounds_are_found_in_the_middle_of_the_longest(tmp_path):
    phonemes = [["M", 0.0, 0.1], ["m", 1.0, 1.4], ["AA1", 2.0, 2.2], ["uw", 50.0, 51.0]]
    (tmp_path / "a.json").write_text(json.dumps({"phonemes": phonemes}))
    found = gallery.spoken(source_of(np.zeros(100)), tmp_path / "a.mp4")
    assert [(m.frame, m.label.split()[0]) for m in found] == [(30, "/m/"), (52, "/aa/")]
    assert gallery.spoken(source_of(np.zeros(100)), tmp_path / "b.mp4") == []
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(BadInput, match=r"c\.json: cannot be read"):
        gallery.spoken(source_of(np.zeros(100)), tmp_path / "c.mp4")


def test_a_clip_becomes_one_picture(tmp_path, capsys):
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed (make test installs it)")
    sound = np.concatenate(list(read_speech(FIXTURE, 48_000)))[:48_000]
    write_video(tmp_path / "clip.mp4", list(islice(read_at_rate(FIXTURE, RATE), 25)), sound=sound)
    assert gallery.main([str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "out")]) == 0
    made = np.asarray(Image.open(tmp_path / "out" / "clip.jpg"), np.int16)
    assert made.shape[1] == gallery.COLUMNS * gallery.FACE_PX
    rows = [made[begin : begin + 200] for begin in (40, 250, 470)]
    assert np.abs(rows[0] - rows[1]).max() > 20, "ours is not the source"
    assert gallery.main([str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "no such folder, video or list" in capsys.readouterr().err
