"""Landmarks → landmark image (paper 3.4), sub-pixel, one implementation for training and serving alike.

A contour is sampled densely and every sample is splatted as a small Gaussian. A Gaussian is separable, so
the picture of all samples of a channel is one matrix product of their vertical and horizontal profiles.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import CROP, CROP_SIDE
from mytalk.types import F32

CHANNELS = 3
SIGMA_PX = 1.4
SPACING_PX = 2.5
GAIN = 1.8  # before saturation; makes a line's core ~0.9 at the nominal spacing


@cache
def _samplers(layout: Layout) -> tuple[F32, ...]:
    """Per channel, float32 [M, points]: rows that make the samples of its contours from the landmarks."""
    rows: list[list[F32]] = [[] for _ in range(CHANNELS)]
    for contour in layout.contours:
        ends = contour.points[1:] + (contour.points[:1] if contour.closed else ())
        for a, b in zip(contour.points, ends, strict=False):
            length = float(np.linalg.norm(layout.template[a, :2] - layout.template[b, :2]))
            steps = max(1, round(length * CROP / CROP_SIDE / SPACING_PX))
            for step in range(steps):
                row = np.zeros(layout.points, np.float32)
                row[a], row[b] = 1 - step / steps, step / steps
                rows[contour.channel].append(row)
    return tuple(np.stack(channel) for channel in rows)


def draw_landmarks(points: F32, layout: Layout, size: int = CROP) -> F32:
    """Landmark image float32 [3, size, size] in 0..1: outer lips, inner lips, the rest of the face.

    points: float32 [K, 2] in crop pixels (0..256, pixel centres at +0.5); points outside the crop draw
    nothing. size: pixels of the square image, which always shows the whole crop.
    """
    centres = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(CROP / size)
    image = np.empty((CHANNELS, size, size), np.float32)
    for channel, sampler in enumerate(_samplers(layout)):
        samples = sampler @ points[:, :2]
        profiles = np.subtract(centres, samples[:, :, None], dtype=np.float32)
        profiles /= np.float32(SIGMA_PX)
        np.square(profiles, out=profiles)
        profiles *= np.float32(-0.5)
        np.exp(profiles, out=profiles)
        np.matmul(profiles[:, 1].T, profiles[:, 0], out=image[channel])
    image *= np.float32(-GAIN)
    np.exp(image, out=image)
    return np.subtract(np.float32(1.0), image, out=image)
