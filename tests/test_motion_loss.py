"""The motion trainer's objective: three ways to noise, padding, self-made pasts, and the linear code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")

from mytalk.engines import default_bundle  # noqa: E402
from mytalk.landmarks.layout import load_layout  # noqa: E402
from mytalk.models.conformer import ConformerBlock, rotary_tables  # noqa: E402
from mytalk.models.identity import IdentityExtractor  # noqa: E402
from mytalk.models.motion import MotionModel  # noqa: E402
from mytalk.models.motion_config import CONDITIONS, MotionConfig  # noqa: E402
from mytalk.models.rollout import roll_out  # noqa: E402
from mytalk.models.sizes import PAPER  # noqa: E402
from tests.prepared_data import write_data  # noqa: E402
from training import motion  # noqa: E402
from training.checkpoints import LAST, read_weights  # noqa: E402
from training.data import list_clips  # noqa: E402
from training.motion_data import MotionBatches, MotionDraw, load_motion_clip  # noqa: E402
from training.motion_loss import (  # noqa: E402
    MotionLoss,
    MotionObjective,
    block_mask,
    draw_plan,
    fit_code,
    point_weights,
)
from training.runner import recompute  # noqa: E402
from training.task import Network  # noqa: E402

SMALL = MotionConfig(dim=16, heads=2, hidden=16, layers=2, audio_dim=16, audio_heads=2, audio_hidden=16)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return [load_motion_clip(clip) for clip in list_clips(write_data(tmp_path_factory.mktemp("data")))]


def objective(clips, loss: MotionLoss, config: MotionConfig = SMALL) -> MotionObjective:
    torch.manual_seed(0)
    layout, model = load_layout(), MotionModel(config)
    energy = fit_code(model, [c.displacement for c in clips], point_weights(layout, 3))
    return MotionObjective(loss, model, IdentityExtractor(layout.points, 8, config.identity), layout, energy)


def batch_of(clips, **settings):
    draw = MotionDraw(**{"batch": 2, "frames": 60} | settings)
    return MotionBatches(clips, SMALL, draw).draw(np.random.default_rng(0))


@pytest.mark.parametrize("noising", ["levels", "two_copy", "whole"])
@pytest.mark.parametrize("own_past", [0.0, 1.0])
def test_every_weight_learns_however_the_sequence_is_noised(clips, noising, own_past):
    loss = MotionLoss(noising=noising, self_generated_share=own_past)
    task = objective(clips, loss)
    parts = task(batch_of(clips), draw_plan(loss, SMALL.tokens, 1, 0))
    assert parts["x0"] > 0
    parts["total"].backward()
    idle = [name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
    assert all(p.grad is None for p in task.identity.parameters()), "the extractor is frozen"


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_identity_condition_tells_people_apart(clips, condition):
    loss = MotionLoss(noising="whole", velocity_weight=0, identity_weight=0)
    task = objective(clips, loss, replace(SMALL, condition=condition, dropout=0.0)).eval()
    batch = batch_of(clips)
    other = batch._replace(rest=batch.rest.flip(-1) + 0.3)
    made = [
        task.denoise(
            torch.zeros(2, 60, 32),
            torch.zeros(2, 60, 32),
            torch.ones(2, 60),
            task.hear(b),
            b,
            task.condition(b),
            torch.zeros(60, dtype=torch.long),
        )
        for b in (batch, other)
    ]
    assert (made[0] - made[1]).abs().max() > 1e-6


def test_padding_counts_for_nothing(clips):
    loss = MotionLoss(noising="whole")
    task = objective(clips, loss, replace(SMALL, causal=False, dropout=0.0)).eval()
    batch = batch_of(clips, stitch=False)
    assert not batch.valid.all(), "clips of 40 frames in sequences of 60"
    changed = batch.displacement.clone()
    changed[~batch.valid] = 9.0
    upper = batch.upper.clone()
    upper[~batch.valid] = 9.0
    plan = draw_plan(loss, SMALL.tokens, 1, 0)
    results = []
    for some in (batch, batch._replace(displacement=changed, upper=upper)):
        torch.manual_seed(3)
        results.append(task(some, plan))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-6, equal_nan=True, msg=name)


def test_a_roll_out_is_what_recomputing_everything_gives(clips):
    torch.manual_seed(0)
    config = replace(SMALL, dropout=0.0, window=9)
    model = MotionModel(config).eval()
    frames, rotary = 14, rotary_tables(torch.arange(14)[None], 8)
    noise, speech = torch.randn(1, frames, 32), torch.randn(1, frames, 16)
    upper, identity = torch.randn(1, frames, config.upper), torch.randn(1, config.identity)
    blocks = torch.arange(frames) // 4
    with torch.no_grad():
        made = roll_out(model, noise, speech, upper, identity, blocks, 1)
        last = blocks == blocks[-1]
        given = torch.where(last[None, :, None], noise, made)
        level = last[None].float()
        whole = model.denoiser(
            given, level, speech, upper, identity, rotary, block_mask(blocks, config.window)
        )[0]
    torch.testing.assert_close(whole[:, last], made[:, last], rtol=1e-4, atol=1e-5)


def test_the_code_of_principal_components_gives_back_what_it_was_fitted_to(clips):
    task = objective(clips, MotionLoss())
    moved = torch.from_numpy(clips[0].displacement)
    again = task.model.to_displacement(task.model.to_coefficients(moved))
    assert (again - moved).abs().max() < 0.02 * moved.abs().max()


def test_the_paper_size_works_in_coordinates_and_asks_for_its_features(clips):
    model = MotionModel(replace(SMALL, code="raw", coordinates=3, coefficients=178 * 3))
    fit_code(model, [c.displacement for c in clips], point_weights(load_layout(), 3))
    moved = torch.from_numpy(clips[0].displacement)
    torch.testing.assert_close(model.to_displacement(model.to_coefficients(moved)), moved)
    with pytest.raises(Exception, match="hears wav2vec2 features"):
        load_motion_clip(clips[0].clip, PAPER.motion, load_layout())


@pytest.mark.parametrize("noising", ["levels", "two_copy", "whole"])
@pytest.mark.parametrize("how", ["runner", "model"])
def test_recomputed_activations_give_the_same_gradients(clips, noising, how):
    """Every block runs twice then, dropout and all, whether the run or the model's own config asks for it."""
    loss = MotionLoss(noising=noising)

    def gradients(recomputed):
        config = replace(SMALL, recompute=recomputed and how == "model")
        task = objective(clips, loss, config)
        calls = []
        for block in task.model.denoiser.blocks:
            block.attention.register_forward_hook(lambda *_: calls.append(1))
        if recomputed and how == "runner":
            recompute(Network("model", task, task.model, (ConformerBlock,)))
        torch.manual_seed(3)
        task(batch_of(clips), draw_plan(loss, SMALL.tokens, 1, 0))["total"].backward()
        return len(calls), [p.grad for p in task.model.parameters()]

    plain, plain_gradients = gradients(recomputed=False)
    again, again_gradients = gradients(recomputed=True)
    assert (plain, again) == (SMALL.layers, 2 * SMALL.layers)
    for one, other in zip(plain_gradients, again_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_kept_run_is_held_to_what_it_began_with_wherever_somebody_speaks(clips):
    loss = MotionLoss(keep_weight=2.0)
    task = objective(clips, loss, replace(SMALL, dropout=0.0))
    task.keep()
    batch, plan = batch_of(clips), draw_plan(loss, SMALL.tokens, 1, 0)
    assert (batch.displacement.abs().amax(-1) > 0).all()
    torch.manual_seed(1)
    parts = task(batch, plan)
    assert float(parts["kept"].detach()) == pytest.approx(0, abs=1e-9), "nothing has been learned yet"
    with torch.no_grad():
        for weight in task.model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    torch.manual_seed(1)
    parts = task(batch, plan)
    assert parts["kept"] > 0
    rest = parts["x0"] + parts["velocity"] + parts["identity"]
    assert float((parts["total"] - rest).detach()) == pytest.approx(
        2 * float(parts["kept"].detach()), rel=1e-4
    )
    parts["total"].backward()
    assert all(p.grad is None for p in task.teacher.parameters()), "the teacher is frozen"
    resting = batch._replace(displacement=torch.zeros_like(batch.displacement))
    assert float(task(resting, plan)["kept"]) == 0, "of a rest the teacher knows nothing"


def test_what_a_run_is_held_to_stays_frozen_in_training(clips):
    task = objective(clips, MotionLoss(keep_weight=1.0))
    task.keep()
    task.train()
    assert task.model.training
    assert not task.teacher.training


def test_a_run_that_keeps_needs_all_of_the_weights_it_keeps(tmp_path, capsys):
    """From the command line: begun, gone on with, and refused without them."""
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    (tmp_path / "run.toml").write_text("[data]\nbatch = 1\nframes = 16\n[loss]\nkeep_weight = 1.0\n")
    given = ["--data", str(data), "--out", str(out), "--config", str(tmp_path / "run.toml"), "--threads", "1"]
    given += ["--identity", str(default_bundle()), "--steps"]
    weights = ["--weights", str(default_bundle() / "motion.safetensors")]
    assert motion.main([*given, "1"]) == 1
    assert "keep_weight holds a run to the weights that it began with" in capsys.readouterr().err
    assert motion.main([*given, "1", *weights]) == 0
    assert motion.main([*given, "2"]) == 1, "to go on it needs them, too"
    assert motion.main([*given, "2", *weights]) == 0
    assert not any("teacher" in name for name in read_weights(out / LAST))
