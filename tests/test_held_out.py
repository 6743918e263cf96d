"""Motion runs on clips that they have not seen: the truth scores best, and every run hears the same noise."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from mytalk.engines import default_bundle  # noqa: E402
from mytalk.errors import BadInput  # noqa: E402
from tests.prepared_data import write_data  # noqa: E402
from training import motion  # noqa: E402
from training.data import list_clips  # noqa: E402
from training.held_out import figures_of, held_out_figures, load_objective  # noqa: E402
from training.motion_data import load_motion_clip  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=["embed_cross", "key_concat"])
def run(request, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    (out / "run.toml").write_text("[data]\nbatch = 1\nframes = 16\n")
    given = ["--data", str(data), "--out", str(out), "--config", str(out / "run.toml"), "--steps", "1"]
    given += ["--identity", str(default_bundle()), "--threads", "1", "--identity-condition", request.param]
    assert motion.main(given) == 0
    return out


def test_the_validation_clips_are_scored_and_again_alike(run, data):
    first, second = held_out_figures(run, data), held_out_figures(run, data)
    assert list(first) == ["synthetic__c_0007"]
    assert first == second
    row = first["synthetic__c_0007"]
    assert -1 <= row["unseen_id_sim"] < 0.9999
    assert row["unseen_landmark_error_pct"] > 0.01


def test_the_truth_itself_would_be_perfect(run, data, monkeypatch):
    objective = load_objective(run)
    clips = [load_motion_clip(clip, objective.model.config) for clip in list_clips(data)]
    monkeypatch.setattr(objective, "sample", lambda batch, *_: batch.displacement)
    for row in figures_of(objective, clips).values():
        assert row["unseen_landmark_error_pct"] == 0
        assert row["unseen_mouth_correlation"] == pytest.approx(1, abs=1e-5)


def test_without_validation_clips_it_says_so(run, tmp_path):
    data = write_data(tmp_path)
    (data / "clips" / "synthetic__c_0007.npz").unlink()
    with pytest.raises(BadInput, match="no validation clips"):
        held_out_figures(run, data)
