"""Throughput of every trainer on made-up clips, and made-up clips of the paper's layout."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from mytalk.models.sizes import PAPER  # noqa: E402
from training import throughput  # noqa: E402
from training.made_up import write_data  # noqa: E402
from training.motion_data import load_for_training  # noqa: E402


def test_each_trainer_is_measured(tmp_path):
    out = tmp_path / "figures.json"
    given = ["--steps", "1", "--warm", "0", "--batch", "2", "--threads", "1", "--device", "cpu"]
    assert throughput.main([*given, "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [row["trainer"] for row in rows] == ["identity", "motion", "appearance"]
    assert [row["frames_per_step"] for row in rows] == [2, 400, 6]
    assert all(row["frames_per_s"] > 0 for row in rows)


SMALL_PAPER = """
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
[appearance]
width = 32
multiples = [1, 1, 1]
blocks = 1
fusion_width = 32
fusion_blocks = 1
[discriminator]
width = 8
"""


def test_the_step_that_a_gpu_is_to_measure_runs_in_small(tmp_path):
    """``--size paper --precision bf16-mixed --recompute --adversarial`` at a few channels, all else alike."""
    size, out = tmp_path / "size.toml", tmp_path / "figures.json"
    size.write_text(SMALL_PAPER)
    given = ["--size", str(size), "--precision", "bf16-mixed", "--recompute", "--adversarial"]
    given += ["--steps", "1", "--warm", "0", "--batch", "1", "--targets", "1", "--threads", "1"]
    assert throughput.main([*given, "--device", "cpu", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    assert [(row["trainer"], row["frames_per_step"]) for row in rows] == [
        ("identity", 1),
        ("motion", 250),
        ("appearance", 1),
    ]
    assert all(row["recompute"] and row["precision"] == "bf16-mixed" for row in rows)


def test_made_up_clips_fit_the_paper_s_motion_model(tmp_path):
    clips = load_for_training(write_data(tmp_path, PAPER, 12), PAPER)
    assert [clip.displacement.shape for clip in clips] == [(12, 822), (12, 822)]
    assert clips[0].features.shape == (24, 768)
