"""The evaluation end to end on the small fixture: a copy is perfect, a shifted sound is that offset."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

pytest.importorskip("mediapipe", reason="MediaPipe is not installed (make test installs it)")
pytest.importorskip("torchmetrics", reason="torchmetrics is not installed (make test installs it)")

from mytalk.actors.tuned import Tuning, TuningFigures
from mytalk.engines import default_bundle
from mytalk.video.media import read_at_rate, read_speech
from mytalk.video.out import VideoWriter
from training import tune
from training.evaluate import main
from training.evaluate_clip import KEYS

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"
RATE = Fraction(25)


def remade(path: Path, late_ms: int = 0, blur: float = 0.0, frames: int = 50) -> Path:
    """The fixture, or its beginning, with its sound late, its pictures blurred."""
    sound = np.concatenate([np.zeros(late_ms * 48, np.int16), *read_speech(FIXTURE, 48_000)])
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, width=256, height=256, fps=RATE, crf=4, sound_rate_hz=48_000) as writer:
        for picture in islice(read_at_rate(FIXTURE, RATE), frames):
            image = Image.fromarray(picture)
            writer.add_picture(np.asarray(image.filter(ImageFilter.GaussianBlur(blur)) if blur else image))
        writer.add_sound(sound[: frames * 1920 + late_ms * 48])
    return path


def figures(tmp_path: Path, *arguments: str) -> dict:
    out = tmp_path / "report.json"
    assert main(["--clips", str(FIXTURE), "--json", str(out), *arguments]) == 0
    return json.loads(out.read_text())


def test_a_systems_own_copy_of_the_clip_is_perfect(tmp_path):
    remade(tmp_path / "same" / "talking_face.mp4")
    report = figures(tmp_path, "--outputs", str(tmp_path / "same"), "--system", "copy")
    mean = report["mean"]
    assert tuple(mean) == KEYS == tuple(report["clips"]["talking_face"])
    assert mean["psnr"] > 40
    assert mean["lip_psnr"] > 38
    assert mean["ssim"] > 0.99
    assert mean["mouth_correlation"] > 0.98
    assert mean["landmark_distance_pct"] < 0.7
    assert mean["av_offset_ms"] == pytest.approx(0, abs=8)
    assert mean["lip_sharpness_ratio"] == pytest.approx(1, abs=0.1)
    assert mean["seam_ratio"] == pytest.approx(1, abs=0.1)
    assert report["reasons"].keys() == {key for key in KEYS if mean[key] is None}
    assert report["settings"]["mode"] == "outputs"


def test_a_late_sound_and_a_blurred_picture_are_told(tmp_path):
    remade(tmp_path / "late" / "talking_face.mp4", late_ms=120, blur=2)
    mean = figures(tmp_path, "--outputs", str(tmp_path / "late"))["mean"]
    assert mean["av_offset_ms"] == pytest.approx(120, abs=15)
    assert mean["lip_sharpness_ratio"] < 0.6
    assert mean["psnr"] < 38


def test_pipeline_reports_every_key_with_baselines_and_sheets(tmp_path, capsys):
    shutil.copy(FIXTURE, tmp_path / "clip.mp4")
    phonemes = {"phonemes": [["b", 0.2, 0.3], ["aa", 0.3, 0.6], ["m", 0.6, 0.7]]}
    (tmp_path / "clip.json").write_text(json.dumps(phonemes))
    out = tmp_path / "report.json"
    sheets = tmp_path / "sheets"
    arguments = ["--clips", str(tmp_path / "clip.mp4"), "--json", str(out), "--sheets", str(sheets)]
    assert main([*arguments, "--mode", "pipeline"]) == 0
    report = json.loads(out.read_text())
    null = {key for key in KEYS if report["mean"][key] is None}
    assert null == {"lpips", "fid", "sync_conf", "sync_dist", "id_sim"} == set(report["reasons"])
    assert {"mouth_correlation_shuffled_speech", "mouth_correlation_loudness"} < set(report["baselines"])
    assert report["silence"]["opening_pct"] < 5
    assert Image.open(sheets / "clip.png").size == (8 * 144, 3 * 144)
    printed = capsys.readouterr().out
    assert "Table 1" in printed
    assert "Table 10" in printed
    assert "published" in printed


def test_appearance_of_the_second_half_and_unpaired_speech(tmp_path):
    short = remade(tmp_path / "short.mp4", frames=25)
    out = tmp_path / "half.json"
    arguments = ["--clips", str(short), "--mode", "appearance", "--part", "second-half", "--json", str(out)]
    assert main(arguments) == 0
    report = json.loads(out.read_text())
    assert report["settings"]["part"] == "second-half"
    assert report["mean"]["lip_psnr"] > 20
    remade(tmp_path / "other.mp4", frames=25)
    (tmp_path / "list.txt").write_text("short.mp4\tother.mp4\n")
    out = tmp_path / "unpaired.json"
    assert main(["--clips", str(tmp_path / "list.txt"), "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["mean"]["psnr"] is None
    assert report["reasons"]["psnr"].startswith("unpaired")
    assert abs(report["mean"]["av_offset_ms"]) <= 600


def test_tuned_figures_stand_beside_untuned_ones(tmp_path, monkeypatch, capsys):
    short, out, seen = remade(tmp_path / "short.mp4", frames=25), tmp_path / "tuned.json", []

    def adapt(bundle, person, run):
        seen.append((bundle, person, run))
        return Tuning(None, TuningFigures(run.runner.steps, 20.0, 21.0))

    monkeypatch.setattr(tune, "adapt", adapt)
    arguments = ["--clips", str(short), "--mode", "appearance", "--json", str(out)]
    assert main([*arguments, "--tune", "first-half", "--tune-steps", "7"]) == 0
    report = json.loads(out.read_text())
    [(bundle, person, _)] = seen
    assert bundle == default_bundle()
    assert person.frames.tolist() == list(range(12)), "of the first half alone"
    told = {"steps": 7, "lip_psnr_before_db": 20.0, "lip_psnr_after_db": 21.0, "opening": 1.0}
    assert report["tuning"]["short"] == told
    assert report["settings"]["part"] == report["untuned"]["settings"]["part"] == "second-half"
    assert report["mean"] == report["untuned"]["mean"], "no decoder came of it"
    assert "tuned on the first half" in capsys.readouterr().out
    assert main([*arguments, "--tune", "first-half", "--outputs", str(tmp_path)]) == 1
    assert "cannot tune what made --outputs" in capsys.readouterr().err


def test_what_cannot_be_scored_is_one_line(tmp_path, capsys):
    assert main(["--clips", str(tmp_path / "none")]) == 1
    assert "no such folder, video or list" in capsys.readouterr().err
    (tmp_path / "broken.mp4").write_text("not a video")
    assert main(["--clips", str(tmp_path)]) == 1
    assert "no clip could be scored" in capsys.readouterr().err
    assert main(["--clips", str(FIXTURE), "--outputs", str(tmp_path)]) == 1
    assert "no output for this clip" in capsys.readouterr().err
    assert main(["--clips", str(FIXTURE), "--hop", "9"]) == 1
    assert main(["--clips", str(FIXTURE), "--json", str(tmp_path / "no" / "r.json")]) == 1
    assert "no such folder" in capsys.readouterr().err
