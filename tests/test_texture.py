"""The texture loss on a real still: an actor's open mouth, as it is, smooth, and with dots for detail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

import torch.nn.functional as F  # noqa: E402

from training.texture import SPACINGS_PX, amounts, texture_loss  # noqa: E402

ACTORS = Path(__file__).resolve().parents[1] / "actors"
INSIDE = (slice(132, 168), slice(96, 160))  # where lips and teeth are, rows and columns of the crop


def still(name: str) -> torch.Tensor:
    """The most open reference of an actor, float32 [1, 3, 256, 256] in 0..1."""
    picture = np.asarray(Image.open(ACTORS / name / "reference_2.png").convert("RGB"), np.float32) / 255
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())[None]


def inside(pictures: torch.Tensor) -> torch.Tensor:
    weights = torch.zeros_like(pictures[:, :1])
    weights[..., INSIDE[0], INSIDE[1]] = 1
    return weights


def smoothed(true: torch.Tensor) -> torch.Tensor:
    """A mouth that is a soft band: what the mean of several references looks like."""
    wide = F.avg_pool2d(F.pad(true, (3, 3, 3, 3), mode="replicate"), 7, 1)
    return torch.where(inside(true) > 0, wide, true)


def dots(like: torch.Tensor, amplitude: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in like.shape[-2:]), indexing="ij")
    return amplitude * (2.0 * ((rows + columns) % 2) - 1) * inside(like)


def gradient_amount(pictures: torch.Tensor) -> torch.Tensor:
    """What the loss of release 0.2 compared: mean differences to the right and below."""
    grey = pictures.mean(dim=1)
    across, down = grey[..., :-1, 1:] - grey[..., :-1, :-1], grey[..., 1:, :-1] - grey[..., :-1, :-1]
    return (across.abs() + down.abs())[..., INSIDE[0], INSIDE[1]].mean()


def scored(pictures: torch.Tensor, true: torch.Tensor) -> float:
    return float(texture_loss(pictures, pictures, true, inside(true)))


@pytest.mark.parametrize("name", ["ada", "ben", "cleo"])
def test_dots_in_a_mouth_are_worse_than_none_and_the_true_picture_is_best(name):
    true = still(name)
    smooth = smoothed(true)
    strengths = np.linspace(0, 0.1, 101)
    most = next(a for a in strengths if gradient_amount(smooth + dots(true, a)) >= gradient_amount(true))
    dotted = smooth + dots(true, most)  # by the old measure they have just the detail that the true mouth has
    assert scored(true, true) == 0
    assert 0 < scored(smooth, true) < scored(dotted, true)
    # Half of them is no bargain either: teeth have little detail crosswise.
    found = [scored(smooth + dots(true, share * most), true) for share in (0, 0.5, 1, 2)]
    assert found == sorted(found)


def test_stripes_do_not_stand_for_the_other_direction():
    true = torch.full((1, 3, 64, 64), 0.5)
    across = true.clone()
    across[..., ::4] += 0.1
    across[..., 1::4] += 0.1
    weights = torch.ones(1, 1, 64, 64)
    down = across.transpose(-1, -2)
    flat = float(texture_loss(true, true, across, weights))
    assert float(texture_loss(down, down, across, weights)) > 1.3 * flat


def test_grain_counts_by_its_amount_and_not_by_its_place():
    torch.manual_seed(0)
    smooth, weights = torch.full((1, 3, 96, 96), 0.4), torch.ones(1, 1, 96, 96)
    true, moved = (smooth + 0.1 * (torch.rand(1, 3, 96, 96) - 0.5) for _ in range(2))
    lost = float(texture_loss(smooth, smooth, true, weights))
    assert float(texture_loss(moved, moved, true, weights)) < 0.3 * lost
    assert float((moved - true).abs().mean()) > float((smooth - true).abs().mean())


def test_the_finest_detail_wins_only_where_it_is_rewarded():
    stripes = (torch.arange(64) % 2 - 0.5).expand(1, 3, 64, 64)  # nothing but the finest detail
    true, weights = 0.5 + 0.2 * stripes, torch.ones(1, 1, 64, 64)
    faint, much = (0.5 + share * stripes for share in (0.02, 0.4))

    def gain(pictures: torch.Tensor, rewarded: bool) -> float:
        """How much the loss falls for a little more of the detail."""
        given = pictures.clone().requires_grad_()
        kept = given.detach()
        loss = (
            texture_loss(kept, given, true, weights) if rewarded else texture_loss(given, kept, true, weights)
        )
        return -float((torch.autograd.grad(loss, given)[0] * stripes).sum())

    assert gain(faint, rewarded=True) > 0
    # a few per cent: the margin, where smoothing sees half of the stripes
    assert abs(gain(faint, rewarded=False)) < 0.05 * gain(faint, rewarded=True)
    assert gain(much, rewarded=False) < 0, "too much costs whoever made it"


def test_amounts_are_by_scale_and_direction():
    found = amounts(torch.rand(2, 3, 160, 176))
    assert found.shape == (2, 3 * len(SPACINGS_PX), 39, 43)
    finest = amounts(torch.full((1, 3, 32, 32), 0.5) + dots_of(32))[0].mean(dim=(1, 2))
    assert finest[2] > 20 * finest[0]
    assert finest[2] > 20 * finest[1]


def dots_of(side: int) -> torch.Tensor:
    at = torch.arange(side)
    return 0.1 * (2.0 * ((at[:, None] + at) % 2) - 1)
