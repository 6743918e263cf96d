"""Landmarks → landmark image (paper 3.4), sub-pixel, one implementation for training and serving alike.

A contour is sampled densely and every sample is splatted as a small Gaussian. A Gaussian is separable, so
the picture of some samples is one matrix product of their vertical and horizontal profiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import CROP, CROP_SIDE
from mytalk.types import F32

CHANNELS = 3
SIGMA_PX = 1.4
SPACING_PX = 2.5
REACH_PX = 7.0  # five sigma: beyond it a sample adds less than a hundred-thousandth
BAND_ROWS = 32  # drawn at a time; fewer are more calls, more see more samples that do not reach them
GAIN = 1.8  # before saturation; makes a line's core ~0.9 at the nominal spacing


@dataclass(frozen=True, slots=True)
class _Sampler:
    """Where the samples of a channel's contours lie between landmarks; arrays [M].

    share: float32 [M, 1], how far a sample is on its way from landmark ``begin`` to ``end``.
    """

    begin: npt.NDArray[np.intp]
    end: npt.NDArray[np.intp]
    share: F32

    def samples(self, points: F32) -> F32:
        """float32 [M, 2] for landmarks float32 [K, 2]."""
        begin = points[self.begin]
        sampled: F32 = begin + (points[self.end] - begin) * self.share
        return sampled


@cache
def _samplers(layout: Layout) -> tuple[_Sampler, ...]:
    """One for each channel."""
    rows: list[list[tuple[int, int, float]]] = [[] for _ in range(CHANNELS)]
    for contour in layout.contours:
        ends = contour.points[1:] + (contour.points[:1] if contour.closed else ())
        for a, b in zip(contour.points, ends, strict=False):
            length = float(np.linalg.norm(layout.template[a, :2] - layout.template[b, :2]))
            steps = max(1, round(length * CROP / CROP_SIDE / SPACING_PX))
            rows[contour.channel] += [(a, b, step / steps) for step in range(steps)]
    return tuple(
        _Sampler(
            np.array([a for a, _, _ in channel], np.intp),
            np.array([b for _, b, _ in channel], np.intp),
            np.array([[share] for _, _, share in channel], np.float32),
        )
        for channel in rows
    )


def _profiles(centres: F32, at: F32) -> F32:
    """Gaussians around ``at`` [M], seen at ``centres`` [n]: float32 [M, n]."""
    profiles: F32 = np.subtract(centres, at[:, None], dtype=np.float32)
    np.square(profiles, out=profiles)
    profiles *= np.float32(-0.5 / SIGMA_PX**2)
    np.exp(profiles, out=profiles)
    return profiles


def _draw_channel(image: F32, samples: F32, centres: F32) -> None:
    """Draw samples float32 [M, 2] into a black image [size, size] whose pixels lie at ``centres``.

    Each band of rows sees only the samples within reach of it, which is most of the work saved.
    """
    samples = samples[np.argsort(samples[:, 1])]
    x, y = samples[:, 0], samples[:, 1]
    left, right = np.searchsorted(centres, (x.min() - REACH_PX, x.max() + REACH_PX))
    top, bottom = np.searchsorted(centres, (y[0] - REACH_PX, y[-1] + REACH_PX))
    across = _profiles(centres[left:right], x)
    for begin in range(top, bottom, BAND_ROWS):
        rows = centres[begin : min(begin + BAND_ROWS, bottom)]
        first, last = np.searchsorted(y, (rows[0] - REACH_PX, rows[-1] + REACH_PX))
        np.matmul(
            _profiles(rows, y[first:last]).T,
            across[first:last],
            out=image[begin : begin + len(rows), left:right],
        )
    drawn = image[top:bottom, left:right]
    drawn *= np.float32(-GAIN)
    np.exp(drawn, out=drawn)
    np.subtract(np.float32(1.0), drawn, out=drawn)


def draw_landmarks(points: F32, layout: Layout, size: int = CROP) -> F32:
    """Landmark image float32 [3, size, size] in 0..1: outer lips, inner lips, the rest of the face.

    points: float32 [K, 2] in crop pixels (0..256, pixel centres at +0.5); points outside the crop draw
    nothing. size: pixels of the square image, which always shows the whole crop.
    """
    centres = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(CROP / size)
    image = np.zeros((CHANNELS, size, size), np.float32)
    for channel, sampler in enumerate(_samplers(layout)):
        _draw_channel(image[channel], sampler.samples(points[:, :2]), centres)
    return image
