"""Warping of the references: both ways of reading them agree, and blending starts from the base."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.landmarks.warp import fine_windows, flow_shape  # noqa: E402
from mytalk.models.appearance import window_px  # noqa: E402
from mytalk.models.warping import Warp  # noqa: E402

WIDTH = 8


def smooth_crops(seed: int) -> np.ndarray:
    """Pictures uint8 [3, 256, 256, 3] without detail that sampling could lose."""
    coarse = torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, size=(256, 256), mode="bicubic").clamp(0, 1)
    return (fine.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


@pytest.fixture
def warp():
    torch.manual_seed(0)
    made = Warp(WIDTH).eval()
    for head in (made.head, made.by_flow[1]):
        torch.nn.init.normal_(head.weight, 0, 0.05)
    return made


def inputs(count: int, seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(count, WIDTH, 40, 44, generator=random)
    flows = torch.nn.functional.interpolate(
        torch.randn(count, 6, 4, 4, generator=random) * 5, size=flow_shape(), mode="bilinear"
    )
    return features, torch.rand(count, 3, 160, 176, generator=random), flows.unflatten(1, (3, 2))


def test_looking_up_finds_what_interpolation_finds(warp):
    crops = [smooth_crops(seed) for seed in range(2)]
    windows = torch.stack([window_px(torch.from_numpy(c).permute(0, 3, 1, 2)) / 255 for c in crops])
    fine = torch.from_numpy(np.stack([fine_windows(c) for c in crops]))
    features, base, flows = inputs(2)
    with torch.no_grad():
        looked_up = warp(features, base, fine, flows)
        interpolated = warp(features, base, windows, flows)
    assert float((looked_up - base).abs().mean()) > 0.02, "the references must show"
    assert float((looked_up - interpolated).abs().mean()) < 0.004
    assert float((looked_up - interpolated).abs().max()) < 0.05


def test_positions_outside_the_window_show_its_edge(warp):
    fine = torch.randint(0, 256, (1, 3, 3, 480, 528), dtype=torch.uint8)
    features, base, flows = inputs(1)
    for shift in (-1e4, 1e4):
        shown = warp(features, base, fine, flows + shift)
        assert torch.isfinite(shown).all()


def test_only_interpolation_teaches(warp):
    features, base, flows = inputs(1)
    features.requires_grad_()
    warp(features, base, torch.rand(1, 3, 3, 160, 176), flows).square().mean().backward()
    assert all(p.grad is not None for p in warp.parameters())
    assert float(features.grad.abs().sum()) > 0
