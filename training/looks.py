"""What cameras do to a face: users' faces are not in the data that trains the appearance model."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mytalk.types import F32

GAINS, TINTS, GAMMAS = (0.75, 1.2), (0.9, 1.1), (0.8, 1.25)
SATURATIONS = (0.5, 1.4)
SHADES = 0.18  # most that light changes from the middle of a picture to its edge, as a share
JPEG_QUALITIES = (25, 80)


@dataclass(frozen=True, slots=True)
class Looks:
    """How often pictures of a clip change (a table of ``[data]``; shares 0..1).

    recolour_share: clips with changed exposure, tint, gamma and saturation. soft_share: of those, clips that
    lose resolution, as a person filmed from afar. light_share: clips whose pictures are each lit differently,
    so that what is taken from a reference has to be fitted to the picture around it. compress_share: clips
    whose pictures went through JPEG.
    """

    recolour_share: float = 0.7
    soft_share: float = 0.15
    light_share: float = 0.25
    compress_share: float = 0.15


def look(pictures: F32, looks: Looks, random: np.random.Generator) -> F32:
    """The pictures of one clip, float32 [n, 3, H, W] in 0..1, as another camera would have shown them."""
    if random.random() < looks.recolour_share:
        pictures = recoloured(pictures, random)
        if random.random() < looks.soft_share:
            pictures = softened(pictures, random.uniform(0.4, 0.9))
    if random.random() < looks.light_share:
        pictures = relit(pictures, random)
    if random.random() < looks.compress_share:
        pictures = compressed(pictures, int(random.integers(*JPEG_QUALITIES)))
    return pictures


def recoloured(pictures: F32, random: np.random.Generator) -> F32:
    """One change of colours for all pictures."""
    gain = random.uniform(*GAINS) * random.uniform(*TINTS, (3, 1, 1))
    changed = np.power(pictures, random.uniform(*GAMMAS)) * gain
    grey = changed.mean(axis=1, keepdims=True)
    saturated: F32 = np.clip(grey + random.uniform(*SATURATIONS) * (changed - grey), 0, 1)
    return saturated.astype(np.float32)


def softened(pictures: F32, scale: float) -> F32:
    """Pictures that hold ``scale`` of the pixels they have room for, across and down."""
    given = torch.from_numpy(np.ascontiguousarray(pictures))
    small = F.interpolate(given, scale_factor=scale, mode="area")
    found: F32 = F.interpolate(small, pictures.shape[2:], mode="bicubic").clamp(0, 1).numpy()
    return found


def relit(pictures: F32, random: np.random.Generator) -> F32:
    """Every picture with a light of its own: a slope over the picture, and an exposure."""
    height, width = pictures.shape[2:]
    slopes = random.uniform(-SHADES, SHADES, (2, len(pictures), 1, 1, 1))
    exposure = random.uniform(1 - SHADES / 3, 1 + SHADES / 3, (len(pictures), 1, 1, 1))
    down = np.linspace(-1, 1, height)[:, None]
    across = np.linspace(-1, 1, width)
    lit: F32 = np.clip(pictures * (exposure + slopes[0] * down + slopes[1] * across), 0, 1)
    return lit.astype(np.float32)


def compressed(pictures: F32, quality: int) -> F32:
    """Pictures after JPEG of this quality."""
    found = []
    for picture in pictures:
        file = io.BytesIO()
        pixels = (picture.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(file), np.float32).transpose(2, 0, 1) / 255)
    return np.stack(found)
