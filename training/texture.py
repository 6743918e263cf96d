"""How much detail a picture has, where it has it and of which kind: what keeps skin and teeth from blurring.

L1 alone would rather average the skin and the teeth of several references than show the grain of one. So the
amount of detail counts too, wherever exactly it lies. A network finds the cheapest detail there is: where
only the amount counts, that is a pattern of dots, one pixel on and one off, which no camera gives. Two things
keep it from that. Detail is compared by direction and scale, so that dots are no substitute for the edge of a
tooth, and weigh thrice where there are none. And the finest detail is rewarded only in what was *taken* from
the references' own pixels; what the decoder paints on top of them can lose by it, but win nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SPACINGS_PX = (1, 2, 4)  # of the pixels that are compared, finest first
AREA_PX, STEP_PX = 8, 4  # amounts are means over squares of this side, so far apart
FAINT = 2e-3  # amounts below it are alike; above it relative differences count, so that faint skin does, too
EXCESS_WEIGHTS = (1.0, 1.0, 3.0)  # of detail that is not there, by direction, against 1 for what is missing


def amounts(pictures: Tensor, spacings_px: tuple[int, ...] = SPACINGS_PX) -> Tensor:
    """Local amounts of detail [B, 9, H / 4, W / 4] or so of pictures [B, 3, H, W] in 0..1.

    For each scale: across, down, and crosswise, which dots have and pictures have not.
    """
    grey = pictures.mean(dim=1, keepdim=True)
    found = []
    for spacing in spacings_px:
        right, below = grey[..., :-spacing, spacing:], grey[..., spacing:, :-spacing]
        here, beyond = grey[..., :-spacing, :-spacing], grey[..., spacing:, spacing:]
        for band in (
            right + beyond - here - below,
            below + beyond - here - right,
            here + beyond - right - below,
        ):
            found.append(F.avg_pool2d(F.pad(band.abs() / 2, (0, spacing, 0, spacing)), AREA_PX, STEP_PX))
        grey = _smoothed(grey, spacing)
    return torch.cat(found, dim=1)


def _smoothed(grey: Tensor, spacing: int) -> Tensor:
    """A quarter, a half and a quarter of pixels so far apart, in both directions."""
    wide = F.pad(grey, (spacing, spacing, 0, 0), mode="replicate")
    across = (wide[..., : -2 * spacing] + 2 * grey + wide[..., 2 * spacing :]) / 4
    high = F.pad(across, (0, 0, spacing, spacing), mode="replicate")
    return (high[..., : -2 * spacing, :] + 2 * across + high[..., 2 * spacing :, :]) / 4


def texture_loss(out: Tensor, rewarded: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Missing detail, and detail that is too much, by square, direction and scale; a scalar.

    out, targets: [B, 3, H, W]. rewarded: equal to ``out``, with gradients for what may gain by finest detail.
    weights: [B, 1, H, W].
    """
    true, ours = ((amounts(pictures) + FAINT).sqrt() for pictures in (targets, out))
    finest = (amounts(rewarded, SPACINGS_PX[:1]) + FAINT).sqrt()
    missing = F.relu(true - torch.cat([finest, ours[:, finest.shape[1] :]], dim=1))
    by_direction = torch.tensor(EXCESS_WEIGHTS * len(SPACINGS_PX), device=out.device)[:, None, None]
    excess = by_direction * F.relu(ours - true)
    return ((missing + excess) * F.avg_pool2d(weights, AREA_PX, STEP_PX)).mean()
