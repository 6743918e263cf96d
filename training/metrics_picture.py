"""Picture metrics over 256×256 crops: PSNR, SSIM, sharpness, flicker, seam; one mask and composite for all.

Clips are uint8 [F, 256, 256, 3]: ``true`` is the source's, ``shown`` the system's, cut by the source's crop
matrices.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from mytalk.render.compose import hidden_mask, paste_mask
from mytalk.types import F32, U8

SSIM_BATCH = 16  # pictures at a time
PATCH = 16  # pixels; side of the patches in which flicker is looked for
QUIET = 0.25  # grey levels²; a source that is even more still (skipped blocks) counts as this
MOST_PSNR_DB = 90.0  # of equal pictures, which have none
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Mask = npt.NDArray[np.bool_]


@cache
def lip_mask() -> Mask:
    """Where lip_* figures count: bool [256, 256], the mask where the rendered crop outweighs the other."""
    return paste_mask() >= 128


def composite(shown: U8, true: U8) -> U8:
    """The source outside the mask, the system's picture inside: what PSNR, SSIM, LPIPS and FID see."""
    return np.where((hidden_mask() > 0)[:, :, None], shown, true)


def psnr_db(shown: U8, true: U8, mask: Mask | None = None) -> float:
    """PSNR over all pictures of a clip, dB; inside ``mask`` only, if given."""
    a, b = (shown, true) if mask is None else (shown[:, mask], true[:, mask])
    value = peak_signal_noise_ratio(
        torch.from_numpy(a).float(), torch.from_numpy(b).float(), data_range=255.0
    )
    return min(float(value), MOST_PSNR_DB)


def ssim(shown: U8, true: U8, mask: Mask) -> tuple[float, float]:
    """SSIM over the crop and inside ``mask``: Gaussian window of 11, σ 1.5, RGB, mean over a clip."""
    whole, inside = [], []
    within = torch.from_numpy(mask)
    for start in range(0, len(shown), SSIM_BATCH):
        a, b = (
            torch.from_numpy(np.ascontiguousarray(x[start : start + SSIM_BATCH])).permute(0, 3, 1, 2).float()
            / 255
            for x in (shown, true)
        )
        mean, each = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
        whole.append(float(mean) * len(a))
        inside.append(float(each[:, :, within].mean()) * len(a))
    return sum(whole) / len(shown), sum(inside) / len(shown)


def _luma(pictures: U8) -> F32:
    return pictures.astype(np.float32) @ LUMA


def sharpness_ratio(shown: U8, true: U8) -> float:
    """Gradient energy inside the mask, the system's over the source's: below 1 is blurred, above it noisy."""
    inside = lip_mask()[1:, 1:] & lip_mask()[:-1, :-1]

    def energy(pictures: U8) -> float:
        grey = _luma(pictures)
        right, down = np.diff(grey, axis=2)[:, 1:], np.diff(grey, axis=1)[:, :, 1:]
        return float((np.square(right) + np.square(down))[:, inside].mean())

    return energy(shown) / max(energy(true), 1e-6)


def _still_patch(true: F32) -> tuple[slice, slice]:
    """The patch inside the mask that changes least in the source, float32 [F, 256, 256] of grey levels."""
    change = np.square(np.diff(true, axis=0)).mean(axis=0)
    inside, best = lip_mask(), (np.inf, 0, 0)
    for top in range(0, 256 - PATCH, PATCH // 2):
        for left in range(0, 256 - PATCH, PATCH // 2):
            here = slice(top, top + PATCH), slice(left, left + PATCH)
            if inside[here].all():
                best = min(best, (float(change[here].mean()), top, left))
    return slice(best[1], best[1] + PATCH), slice(best[2], best[2] + PATCH)


def flicker_ratio(shown: U8, true: U8) -> float | None:
    """Temporal variance in the mask's stillest patch (of the source), the system's over the source's.

    Taken from frame-to-frame differences, so that slow changes of light do not count. None below 3 frames.
    """
    if len(true) < 3:
        return None
    ours, source = _luma(shown), _luma(true)
    rows, columns = _still_patch(source)

    def variance(grey: F32) -> float:
        return float(np.diff(grey[:, rows, columns], axis=0).var(axis=0).mean()) / 2

    return max(variance(ours), QUIET) / max(variance(source), QUIET)


@cache
def _border() -> tuple[Mask, F32, F32]:
    """The band where rendered and source meet, bool [255, 255], and unit normals of the mask's edge in it."""
    weight = paste_mask().astype(np.float32)
    y, x = np.diff(weight, axis=0)[:, 1:], np.diff(weight, axis=1)[1:]
    steep = np.hypot(x, y)
    band = steep > 0.25 * steep.max()
    return band, x / np.maximum(steep, 1e-6), y / np.maximum(steep, 1e-6)


def seam_ratio(shown: U8, true: U8) -> float:
    """Gradient across the mask's border, the system's over the source's: above 1 there is an edge to see."""
    band, normal_x, normal_y = _border()

    def across(pictures: U8) -> float:
        grey = _luma(pictures)
        x, y = np.diff(grey, axis=2)[:, 1:], np.diff(grey, axis=1)[:, :, 1:]
        return float(np.abs(x * normal_x + y * normal_y)[:, band].mean())

    return across(shown) / max(across(true), 1e-6)
