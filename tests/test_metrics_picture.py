"""Picture metrics with known answers: equal, noisy, blurred, flickering and badly pasted pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

pytest.importorskip("torchmetrics", reason="torchmetrics is not installed (make test installs it)")

from mytalk.render.compose import hidden_mask, paste_mask
from training.metrics_picture import (
    MOST_PSNR_DB,
    composite,
    flicker_ratio,
    lip_mask,
    psnr_db,
    seam_ratio,
    sharpness_ratio,
    ssim,
)


@pytest.fixture(scope="module")
def clip():
    """Textured pictures that move and have some camera noise, uint8 [8, 256, 256, 3]."""
    random = np.random.default_rng(0)
    noise = np.asarray(
        Image.fromarray(random.integers(60, 200, (300, 300, 3), dtype=np.uint8)).filter(
            ImageFilter.GaussianBlur(2)
        )
    )
    frames = [noise[n : n + 256, 2 * n : 2 * n + 256] for n in range(8)]
    return np.clip(np.stack(frames) + random.normal(0, 2, (8, 256, 256, 3)), 0, 255).astype(np.uint8)


def test_the_same_pictures_are_perfect(clip):
    assert psnr_db(clip, clip) == MOST_PSNR_DB
    assert ssim(clip, clip, lip_mask()) == pytest.approx((1, 1), abs=1e-4)
    assert (
        sharpness_ratio(clip, clip) == flicker_ratio(clip, clip) == seam_ratio(clip, clip) == pytest.approx(1)
    )


def test_a_known_error_gives_a_known_psnr(clip):
    dark = np.minimum(clip, 245)
    shifted = (dark + 10).astype(np.uint8)
    assert psnr_db(shifted, dark) == pytest.approx(20 * np.log10(255 / 10), abs=0.01)
    # The same error inside the mask alone: lip figures stay, figures over the crop rise by the mask's share.
    inside = np.where(lip_mask()[:, :, None], shifted, dark)
    assert psnr_db(inside, dark, lip_mask()) == pytest.approx(20 * np.log10(255 / 10), abs=0.01)
    share = lip_mask().mean()
    assert psnr_db(inside, dark) == pytest.approx(20 * np.log10(255 / 10) - 10 * np.log10(share), abs=0.01)


def test_lip_figures_see_nothing_outside_the_mask_and_the_composite_removes_it(clip):
    outside = np.where((hidden_mask() > 0)[:, :, None], clip, 0).astype(np.uint8)
    assert psnr_db(outside, clip, lip_mask()) == MOST_PSNR_DB
    np.testing.assert_array_equal(composite(outside, clip), clip)
    assert not lip_mask()[hidden_mask() == 0].any()


def test_ssim_falls_inside_the_mask_only_where_it_is_spoilt(clip):
    spoilt = clip.copy()
    spoilt[:, :40] = 0
    whole, lips = ssim(spoilt, clip, lip_mask())
    assert whole < 0.95
    assert lips == pytest.approx(1, abs=1e-3)


def test_blur_lowers_and_noise_raises_sharpness(clip):
    blurred = np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(2))) for p in clip])
    assert sharpness_ratio(blurred, clip) < 0.6
    noisy = np.clip(clip + np.random.default_rng(1).normal(0, 8, clip.shape), 0, 255).astype(np.uint8)
    assert sharpness_ratio(noisy, clip) > 1.3


def test_flicker_is_seen_and_steady_light_is_not(clip):
    still = np.repeat(clip[:1], 8, axis=0)
    random = np.random.default_rng(2)
    filmed = np.clip(still + random.normal(0, 2, still.shape), 0, 255).astype(np.uint8)
    blinking = np.clip(filmed + np.where(np.arange(8) % 2, 8, 0)[:, None, None, None], 0, 255).astype(
        np.uint8
    )
    assert flicker_ratio(blinking, filmed) > 5
    fading = np.clip(filmed + np.arange(8)[:, None, None, None], 0, 255).astype(np.uint8)
    assert flicker_ratio(fading, filmed) == pytest.approx(1, abs=0.2)
    assert flicker_ratio(still, filmed) < 0.3  # smoother than the camera
    assert flicker_ratio(filmed[:2], filmed[:2]) is None


def test_a_hard_edge_at_the_border_is_a_seam_and_a_feathered_one_less(clip):
    smooth = np.stack([np.asarray(Image.fromarray(p).filter(ImageFilter.GaussianBlur(6))) for p in clip])
    lighter = np.clip(smooth.astype(np.int16) + 30, 0, 255)
    weight = paste_mask()[:, :, None] / 255
    feathered = (smooth * (1 - weight) + lighter * weight).astype(np.uint8)
    hard = np.where(lip_mask()[:, :, None], lighter, smooth).astype(np.uint8)
    assert 1.5 < seam_ratio(feathered, smooth) < seam_ratio(hard, smooth)
    spoilt_lips = smooth.copy()
    spoilt_lips[:, 130:170, 110:140] = 0
    assert seam_ratio(spoilt_lips, smooth) == pytest.approx(1, abs=0.01)
