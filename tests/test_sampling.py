"""Samplers against a flow whose end is known, and the table of them on a small prepared data set."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="samplers are tried in torch")

from benchmarks import sampling  # noqa: E402
from benchmarks.samplers import SAMPLERS, Sampler, amplitudes, ddim, dpm_solver_2m, resumed  # noqa: E402
from mytalk.engines import default_bundle  # noqa: E402
from tests.prepared_data import write_data  # noqa: E402

WIDTH = 0.3  # of what is drawn from: a normal distribution, whose flow only scales


def denoise(x: torch.Tensor, level: float) -> torch.Tensor:
    """The best x0 for samples of that distribution."""
    alpha, sigma = amplitudes(level)
    return alpha * WIDTH**2 * x / (alpha**2 * WIDTH**2 + sigma**2)


def error(sampler: Sampler, steps: int) -> float:
    noise = torch.ones(1, 1, 1, dtype=torch.float64)
    return abs(float(sampler(denoise, noise, steps)) - WIDTH)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_more_steps_come_closer_to_the_end_of_the_flow(name: str) -> None:
    errors = [error(SAMPLERS[name], steps) for steps in (8, 32, 128, 512)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_second_order_gains_more_by_each_doubling() -> None:
    # exact at first order: one step is the mean, and few steps of all samplers are one and the same
    for steps in (1, 2):
        assert error(ddim, steps) == pytest.approx(error(dpm_solver_2m, steps), abs=1e-12)
    assert error(SAMPLERS["extrapolated"], 8) < error(ddim, 8)
    assert error(dpm_solver_2m, 16) < error(ddim, 16)


def test_a_warm_start_from_the_true_state_is_the_rest_of_the_way() -> None:
    alpha, sigma = amplitudes(0.5)
    there = torch.full((1, 1, 1), math.hypot(alpha * WIDTH, sigma), dtype=torch.float64)
    assert abs(float(resumed(denoise, there, 64, 0.5)) - WIDTH) < 0.01


def test_the_shipped_model_s_own_sampling_is_ddim() -> None:
    model = sampling.load_motion(default_bundle())
    config = model.config
    torch.manual_seed(0)
    frames = 6
    given = sampling.Conditions(
        torch.randn(2, frames, config.coefficients),
        torch.randn(2, frames, config.audio_dim),
        torch.randn(2, frames, config.upper),
        torch.randn(2, config.condition_width),
    )
    from mytalk.models.rollout import roll_out

    blocks = torch.arange(frames) // 2
    parts = (given.noise, given.speech, given.upper, given.identity)
    theirs = model.to_displacement(roll_out(model, *parts, blocks, 2))
    ours, times = sampling.streamed(model, given, ddim, 2, sampling.Hops(2, 0))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert len(times) == 3
    warm, _ = sampling.streamed(model, given, ddim, 2, sampling.Hops(2, 1, 0.5))
    assert warm.shape == (2, frames - 1, config.compact * config.coordinates)
    assert torch.isfinite(warm).all()


def test_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sampling, "STEPS", (1, 2))
    monkeypatch.setattr(sampling, "MOST_STEPS", 3)
    data, out = write_data(tmp_path / "data"), tmp_path / "table.json"
    assert sampling.main([str(data), "--clips", "1", "--frames", "10", "--json", str(out)]) == 0
    rows = {(row["sampler"], row["steps"]): row for row in json.loads(out.read_text())["rows"]}
    assert rows["ddim", 3]["distance_pct"] == 0
    assert rows["other_noise", 3]["distance_pct"] > 0
    assert rows["ddim", 1]["distance_pct"] == rows["dpm_solver_2m", 1]["distance_pct"] > 0
    assert {"warm_0.5", "warm_0.75"} <= {name for name, _ in rows}
    assert all(-1 <= row["mouth_correlation"] <= 1 for row in rows.values())
    capsys.readouterr()
    assert sampling.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert sampling.main([str(data), "--hop", "0"]) == 2
