"""The quality benchmark: which clips it takes, and one whole run on the fixture."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import QualityError, groups_of, main
from mytalk.video.media import read_at_rate, read_speech
from tests.small_actor import RATE, write_video

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"


def test_only_unseen_people_are_taken(tmp_path):
    for name in ("grid/s1/a.mp4", "grid/s32/b.mp4", "synthetic/x6.mp4", "synthetic/x7.mp4", "mine/in/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    groups = groups_of(tmp_path, [f"own={tmp_path / 'mine'}"])
    assert {name: [v.name for v in videos] for name, videos in groups.items()} == {
        "grid_s32_unseen": ["b.mp4"],
        "synthetic_unseen": ["x7.mp4"],
        "own": ["c.mp4"],
    }
    with pytest.raises(QualityError, match=r"no \.mp4 for grid_s32_unseen"):
        groups_of(tmp_path / "mine", [])


def test_one_group_is_measured_and_recorded(tmp_path, capfd):
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed (make test installs it)")
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed (make test installs it)")
    sound = np.concatenate(list(read_speech(FIXTURE, 48_000)))[:48_000]
    write_video(tmp_path / "clip.mp4", list(islice(read_at_rate(FIXTURE, RATE), 25)), sound=sound)
    out = tmp_path / "quality.json"
    arguments = ["--group", f"own={tmp_path}", "--modes", "appearance", "--json", str(out)]
    assert main(arguments) == 0
    report = json.loads(out.read_text())
    assert report["reports"]["appearance/own"]["mean"]["lip_psnr"] > 15
    assert report["machine"]
    assert str(tmp_path) not in out.read_text()
    assert "appearance/own" in capfd.readouterr().out
    assert main(["--group", f"own={tmp_path / 'none'}"]) == 1
