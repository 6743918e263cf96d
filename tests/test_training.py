"""Every trainer once, from raw video to a bundle that serves; and what they refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("mediapipe", reason="MediaPipe is not installed (make test installs it)")

from mytalk.engines import load_engine  # noqa: E402
from mytalk.errors import BadInput  # noqa: E402
from mytalk.models.checkpoint import load_checkpoint  # noqa: E402
from tests.small_wav2vec2 import save_small  # noqa: E402
from tests.test_companions import made_up_landmarks  # noqa: E402
from training import appearance, calibration, evaluate, identity, motion, prepare  # noqa: E402
from training.data import is_validation, list_clips  # noqa: E402
from training.settings import load_settings  # noqa: E402

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name in ("synthetic/a_0001", "synthetic/b_0007", "grid/s1/one"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FIXTURE, root / f"{name}.mp4")
    (root / "synthetic/broken.mp4").write_text("not a video")
    out = tmp_path_factory.mktemp("data")
    assert prepare.main([str(root), "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    (root / "identity.toml").write_text("batch = 8\n[runner]\nsteps = 2\n")
    (root / "motion.toml").write_text("[data]\nbatch = 2\nframes = 40\n[runner]\nsteps = 2\n")
    (root / "appearance.toml").write_text(
        "[data]\nclips = 1\ntargets = 2\nneighbour_frames = 2\n"
        "[loss]\nadversarial_start = 1\n[runner]\nsteps = 2\npicture_steps = 2\n"
    )
    for module, name in ((identity, "identity"), (motion, "motion"), (appearance, "appearance")):
        assert module.main(arguments(module, data, root / name, root / f"{name}.toml", root)) == 0
    return root


def arguments(module, data, out, config, root):
    given = ["--data", str(data), "--out", str(out), "--config", str(config)]
    return [*given, "--identity", str(root / "identity")] if module is motion else given


def test_preparing_says_what_was_rejected_and_why(data):
    report = {row["name"]: row for row in json.loads((data / "report.json").read_text())["clips"]}
    assert report["synthetic__broken"]["rejected"] == "unreadable"
    assert report["grid__s1__one"]["rejected"] is None
    clips = list_clips(data)
    assert [c.name for c in clips if is_validation(c, clips)] == ["synthetic__b_0007"]


def test_trainers_go_on_from_their_checkpoint(data, runs, tmp_path):
    for module, name in ((motion, "motion"), (appearance, "appearance")):
        copy = tmp_path / name
        shutil.copytree(runs / name, copy)
        assert load_checkpoint(copy / "last.pt")["step"] == 2
        config = tmp_path / f"{name}.toml"
        config.write_text((runs / f"{name}.toml").read_text().replace("steps = 2", "steps = 3"))
        assert module.main(arguments(module, data, copy, config, runs)) == 0
        assert load_checkpoint(copy / "last.pt")["step"] == 3


def test_from_checkpoints_to_a_bundle_that_serves(data, runs, tmp_path):
    out = tmp_path / "bundle"
    arguments = [
        "--motion",
        str(runs / "motion"),
        "--appearance",
        str(runs / "appearance"),
        "--out",
        str(out),
    ]
    frames = tmp_path / "calibration.npz"
    assert calibration.main(["--data", str(data), "--out", str(frames)]) == 0
    arguments += ["--calibrate", str(frames)]
    result = subprocess.run(
        [sys.executable, "-m", "export", *arguments], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["parity"]["landmark_px"] <= 0.01
    assert manifest["parity"]["int8_picture_db"] >= 36
    assert load_engine("onnx", out, threads=1).spec.tokens == manifest["spec"]["tokens"]
    figures = tmp_path / "figures.json"
    arguments = ["--model", str(out), "--clips", str(FIXTURE), "--mode", "appearance", "--json", str(figures)]
    assert evaluate.main(arguments) == 0
    assert np.isfinite(json.loads(figures.read_text())["mean"]["lip_psnr"])


PAPER_SHAPED = """
size = "paper"
[motion]
identity = 16
dim = 16
heads = 2
hidden = 16
layers = 2
audio_dim = 16
audio_heads = 2
audio_hidden = 16
audio_layers = 1
speech_width = 16
mlp_hidden = 16
[identity]
hidden = 16
embedding = 16
"""


def test_the_paper_s_motion_trains_on_what_prepare_makes(tmp_path):
    """Landmarks beside rendered heads, wav2vec2 features, bidirectional noise: raw video to a checkpoint."""
    pytest.importorskip("transformers", reason="transformers is not installed (the train extra)")
    videos, data = tmp_path / "videos", tmp_path / "data"
    for name in ("a_0001", "b_0002"):
        (videos / "heads" / name).mkdir(parents=True)
        shutil.copy(FIXTURE, videos / "heads" / name / "head.mp4")
        np.savez(videos / "heads" / name / "head.npz", landmarks=made_up_landmarks())
    (videos / "heads" / "c_0003.mp4").write_bytes(FIXTURE.read_bytes())
    given = [str(videos), "--out", str(data), "--workers", "1", "--keep-unaligned", "--probe", "loudness"]
    model = save_small(tmp_path / "wav2vec2")
    assert prepare.main([*given, "--layout", "dense669", "--speech-model", model]) == 0
    report = {row["name"]: row["rejected"] for row in json.loads((data / "report.json").read_text())["clips"]}
    assert report == {
        "heads__a_0001__head": None,
        "heads__b_0002__head": None,
        "heads__c_0003": "no_landmarks",
    }
    assert prepare.main(given) == 1  # its clips have the paper's landmarks, not detected ones
    (data / "splits" / "train.txt").write_text("heads__a_0001__head\nheads__b_0002__head\n")
    (data / "splits" / "validation.txt").write_text("")
    size = tmp_path / "size.toml"
    size.write_text(PAPER_SHAPED)
    run = "[runner]\nsteps = 2\npicture_steps = 2\n"
    (tmp_path / "identity.toml").write_text(f"size = {str(size)!r}\nbatch = 8\n{run}")
    (tmp_path / "motion.toml").write_text(
        f"size = {str(size)!r}\n[data]\nbatch = 2\nframes = 60\nstitch = false\nchange_voice = false\n"
        f"[loss]\nnoising = 'whole'\n{run}"
    )
    for module, name in ((identity, "identity"), (motion, "motion")):
        assert module.main(arguments(module, data, tmp_path / name, tmp_path / f"{name}.toml", tmp_path)) == 0
    saved = load_checkpoint(tmp_path / "motion" / "last.pt")
    assert json.loads(saved["config"])["speech"] == "wav2vec2"
    assert saved["average"]["denoiser.leave.bias"].shape == (822,)
    assert (tmp_path / "motion" / "motion.gif").stat().st_size > 1000


def test_unknown_settings_missing_data_and_damaged_checkpoints_are_refused(tmp_path, capsys):
    config = tmp_path / "run.toml"
    config.write_text("learning_rat = 1\n")
    with pytest.raises(BadInput, match="learning_rat"):
        load_settings(motion.MotionRun, config)
    assert motion.main(["--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    assert "run training.prepare first" in capsys.readouterr().err
    (tmp_path / "last.pt").write_bytes(b"half a checkpoint")
    with pytest.raises(BadInput, match="cannot be read"):
        load_checkpoint(tmp_path / "last.pt")
