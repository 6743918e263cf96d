"""The appearance trainer: where references come from, what it minimises, when the discriminator begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")
pytest.importorskip("lightning_fabric", reason="lightning-fabric is not installed (make test installs it)")


from mytalk.errors import BadInput  # noqa: E402
from mytalk.landmarks.layout import load_layout  # noqa: E402
from mytalk.models.autoencoder import AutoencoderConfig  # noqa: E402
from mytalk.models.sizes import BASE, TINY  # noqa: E402
from tests.prepared_data import write_data  # noqa: E402
from training.appearance import (  # noqa: E402
    AppearanceLoss,
    AppearanceRun,
    AppearanceTask,
    mouth_patches,
    sized,
)
from training.appearance_data import WINDOW, AppearanceBatches, AppearanceDraw  # noqa: E402
from training.data import list_clips  # noqa: E402

DRAW = AppearanceDraw(clips=1, targets=2, neighbour_frames=4)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return list_clips(write_data(tmp_path_factory.mktemp("data")))


def task_of(clips, size=TINY, **loss):
    torch.manual_seed(0)
    settings = AppearanceLoss(**{"adversarial_start": 1, "adversarial_patch": 0} | loss)
    return AppearanceTask(AppearanceRun(data=DRAW, loss=settings), clips, size)


def losses_of(task, step, seed=0):
    batch = task.draw(np.random.default_rng(seed))
    modules = {network.name: network.objective for network in task.networks}
    torch.manual_seed(1)
    return task.losses(modules, batch, step)


def test_references_are_three_and_away_from_every_target(clips):
    batches = AppearanceBatches(clips, DRAW, load_layout(), WINDOW)
    picked = batches.arrays[clips[0].name]["picked"]
    for seed in range(30):
        targets, references = batches.pick(clips[0], np.random.default_rng(seed))
        assert len(set(references)) == 3
        assert np.abs(picked[targets][:, None] - picked[references]).min() > DRAW.neighbour_frames


def test_a_batch_is_its_generator_s_alone(clips):
    task = task_of(clips)
    for same, other in zip(*(task.draw(np.random.default_rng(4)) for _ in range(2)), strict=True):
        assert torch.equal(same, other)
    assert not torch.equal(task.draw(np.random.default_rng(5)).targets, same)


def test_the_discriminator_starts_late_and_learns_apart(clips):
    task = task_of(clips)
    assert set(losses_of(task, 0).totals) == {"model"}
    losses = losses_of(task, 1)
    assert set(losses.totals) == {"model", "critic"}
    model, critic = (network.trained for network in task.networks)
    losses.totals["model"].backward()
    assert all(p.grad is None for p in critic.parameters()), "deceiving it must not train it"
    assert sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None) > 0
    model.zero_grad()
    losses.totals["critic"].backward()
    assert all(p.grad is not None for p in critic.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_without_its_weight_there_is_no_discriminator(clips):
    assert [n.name for n in task_of(clips, adversarial_weight=0.0).networks] == ["model"]


def test_the_paper_s_shape_trains_on_whole_crops(clips):
    shape = AutoencoderConfig(width=32, multiples=(1, 1, 1), blocks=1, fusion_width=32, fusion_blocks=1)
    size = replace(BASE, appearance=shape)
    task = task_of(clips, size, adversarial_start=5)
    losses = losses_of(task, 0)
    losses.totals["model"].backward()
    idle = [n for n, p in task.networks[0].trained.named_parameters() if p.grad is None]
    assert idle == []
    assert task.draw(np.random.default_rng(0)).targets.shape == (2, 3, 256, 256)


@pytest.mark.parametrize("references", ["masked_single", "full_single"])
def test_a_single_reference_is_the_first_one(clips, references):
    task = task_of(clips, sized("tiny", references))
    batch, objective = task.draw(np.random.default_rng(0)), task.networks[0].objective
    changed = batch.references.clone()
    changed[:, 1:] = torch.rand_like(changed[:, 1:])
    made = []
    for some in (batch, batch._replace(references=changed)):
        torch.manual_seed(2)
        made.append(objective(some)[0])
    assert torch.equal(*made)
    torch.manual_seed(2)
    multi = task_of(clips).networks[0].objective(batch._replace(references=changed))[0]
    assert not torch.equal(multi, made[0])


def test_a_full_reference_shows_more_than_a_masked_one(clips):
    outside = []
    for references in ("masked_single", "full_single"):
        model = task_of(clips, sized("tiny", references)).networks[0].trained
        pictures = torch.rand(1, 3, 3, 160, 176)
        changed = pictures * model.hidden + 0.3 * (1 - model.hidden)
        outside.append(torch.equal(model.encode_lips(pictures)[0], model.encode_lips(changed)[0]))
    assert outside == [True, False]


def test_references_that_do_not_exist_are_refused():
    with pytest.raises(BadInput, match="masked_multi"):
        sized("tiny", "none")


def test_patches_lie_inside_the_picture_around_the_mouth():
    pictures = torch.arange(2 * 3 * 20 * 30, dtype=torch.float32).reshape(2, 3, 20, 30)
    patches = mouth_patches(pictures, torch.tensor([[15, 10], [29, 0]]), 8)
    assert torch.equal(patches[0], pictures[0, :, 6:14, 11:19])
    assert torch.equal(patches[1], pictures[1, :, 0:8, 22:30])
    assert mouth_patches(pictures, torch.zeros(2, 2), 0) is pictures


def test_detail_that_is_painted_wins_nothing(clips):
    task = task_of(clips, texture_weight=1.0, gradient_weight=0.0)
    batch, objective = task.draw(np.random.default_rng(0)), task.networks[0].objective
    painting = objective(batch)
    assert torch.equal(painting.pictures, painting.rewarded)
    paints = [p for n, p in objective.model.decoder.named_parameters() if n.startswith("out.")]
    missed = painting.rewarded.sum()
    assert all(g is None for g in torch.autograd.grad(missed, paints, allow_unused=True, retain_graph=True))
    assert all(g is not None for g in torch.autograd.grad(painting.pictures.sum(), paints))


def test_what_lies_between_open_lips_weighs_more(clips):
    batches = AppearanceBatches(clips, DRAW, load_layout(), WINDOW)
    batch = batches.draw(np.random.default_rng(0))
    plain = AppearanceBatches(clips, replace(DRAW, inside_weight=0.0), load_layout(), WINDOW)
    without = plain.draw(np.random.default_rng(0))
    raised = batch.weights > without.weights
    assert torch.equal(batch.targets, without.targets)
    assert 0 < float(raised.float().mean()) < 0.1
    rows, columns = torch.nonzero(raised[0, 0], as_tuple=True)
    x, y = batch.mouths[0].tolist()
    assert abs(float(columns.float().mean()) - x) < 8
    assert abs(float(rows.float().mean()) - y) < 12


def test_what_is_hidden_of_a_target_does_not_count(clips):
    batches = AppearanceBatches(clips, replace(DRAW, occluded_share=1.0), load_layout(), WINDOW)
    batch = batches.draw(np.random.default_rng(0))
    plain = AppearanceBatches(clips, DRAW, load_layout(), WINDOW).draw(np.random.default_rng(0))
    assert (batch.weights == 0).any()
    assert (plain.weights > 0).all()


def test_a_share_that_is_none_is_refused():
    with pytest.raises(BadInput, match=r"occluded_share must be between 0 and 1, not 1\.5"):
        AppearanceDraw(occluded_share=1.5)
