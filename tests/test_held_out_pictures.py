"""Appearance runs on clips that they have not seen: a perfect painter, and the same figures twice."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from tests.prepared_data import write_data  # noqa: E402
from training import appearance, held_out_pictures  # noqa: E402
from training.held_out_pictures import held_out_figures, load_painter  # noqa: E402
from training.metrics_picture import MOST_PSNR_DB  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    (out / "run.toml").write_text(
        "[data]\nclips = 1\ntargets = 1\nneighbour_frames = 2\n[loss]\nadversarial_weight = 0.0\n"
    )
    given = ["--data", str(data), "--out", str(out), "--config", str(out / "run.toml"), "--steps", "1"]
    assert appearance.main([*given, "--threads", "1", "--references", "full_single"]) == 0
    return out


def test_the_validation_clips_are_painted_and_again_alike(run, data):
    found = held_out_figures(run, data)
    assert list(found) == ["synthetic__c_0007"]
    assert found == held_out_figures(run, data)
    row = found["synthetic__c_0007"]
    assert set(row) == set(held_out_pictures.KEYS)
    assert row["unseen_lip_psnr"] < row["unseen_psnr"] < 50


def test_a_perfect_painter_is_told_from_a_trained_one(run, data, monkeypatch):
    objective, *rest = load_painter(run)
    monkeypatch.setattr(objective, "forward", lambda batch: (batch.targets, None))
    monkeypatch.setattr(held_out_pictures, "load_painter", lambda _: (objective, *rest))
    row = held_out_figures(run, data)["synthetic__c_0007"]
    assert row["unseen_lip_psnr"] == MOST_PSNR_DB
    assert row["unseen_lip_ssim"] == pytest.approx(1, abs=1e-3)
    assert row["unseen_lip_sharpness_ratio"] == pytest.approx(1)
