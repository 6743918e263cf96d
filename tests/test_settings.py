"""Run settings: nested tables, types, unknown keys; and the learning-rate schedules."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from mytalk.errors import BadInput
from mytalk.models.sizes import load_size
from training.appearance import AppearanceRun
from training.identity import IdentityRun
from training.motion import MotionRun
from training.settings import Runner, learning_rate, load_settings

CONFIGS = Path(__file__).resolve().parents[1] / "training" / "configs"
KINDS = {"identity": IdentityRun, "motion": MotionRun, "appearance": AppearanceRun}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.stem)
def test_every_config_that_ships_is_read(path):
    run = load_settings(KINDS[path.stem.split("_")[0]], path)
    assert load_size(run.size).name == path.stem.split("_")[1]


def test_a_table_given_in_part_keeps_the_trainers_own_defaults(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[runner]\nseed = 7\n")
    run = load_settings(IdentityRun, path, {"size": "base", "batch": None})
    assert (run.runner.seed, run.runner.steps, run.size, run.batch) == (7, 1500, "base", 128)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("learning_rat = 1", "learning_rat"),
        ("[runner]\nstep = 1", r"runner\.step"),
        ("[runner]\nsteps = 'many'", r"runner\.steps"),
        ("[runner]\nsteps = true", r"runner\.steps"),
        ("[runner]\nsteps = 0", "at least 1"),
        ("[runner]\nschedule = 'linear'", "inverse_sqrt"),
        ("[runner]\nprecision = '8-true'", "bf16-mixed"),
        ("[loss]\nnoising = 'none'", "two_copy"),
        ("runner = 3", r"\[runner\] must be a table"),
        ("not toml", r"run\.toml"),
    ],
)
def test_what_is_not_a_setting_is_refused_by_name(tmp_path, text, complaint):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match=complaint):
        load_settings(MotionRun, path)


def test_learning_rates_follow_their_schedule():
    rates = {"learning_rate": 1.0, "warmup_steps": 100, "steps": 1000}
    root = Runner(schedule="inverse_sqrt", **rates)
    assert learning_rate(root, 49, 0) == pytest.approx(0.5)
    assert learning_rate(root, 99, 0) == pytest.approx(1.0)
    assert learning_rate(root, 399, 0) == pytest.approx(0.5)
    assert learning_rate(Runner(**rates), 999, 0) == 1.0
    cosine = Runner(schedule="cosine", final_learning_rate=0.1, **rates)
    assert learning_rate(cosine, 500, 0) == pytest.approx(0.55)
    assert learning_rate(cosine, 1000, 0) == pytest.approx(0.1)
    by_minutes = Runner(schedule="cosine", decay_minutes=60.0, **rates)
    assert learning_rate(by_minutes, 500, 30.0) == pytest.approx(0.5)
