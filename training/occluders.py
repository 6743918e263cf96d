"""Things that people hold in front of their faces: hands, microphones, cups; made up for training.

A lip reference that a hand half covers must not lend the hand to every picture that is made with it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from mytalk.types import F32

Real = npt.NDArray[np.float64]

FINE = 2  # drawn so many times larger, for smooth edges
REACH = (0.25, 0.75)  # how far into the picture something reaches, of its shorter side
FINGERS = (2, 5)
SHADE = 0.35  # most that light changes over the thing, as a share
Draw = ImageDraw.ImageDraw


def _line(draw: Draw, begin: Real, end: Real, width: float) -> None:
    """A line with round ends, pixels."""
    draw.line([(float(begin[0]), float(begin[1])), (float(end[0]), float(end[1]))], 255, round(width))
    for x, y in (begin, end):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), 255)


def _hand(draw: Draw, begin: Real, end: Real, unit: float, random: np.random.Generator) -> None:
    """Fingers side by side, of unlike lengths, from a wrist outside the picture."""
    count, width = int(random.integers(FINGERS[0], FINGERS[1] + 1)), unit * random.uniform(0.07, 0.13)
    across = np.array([-(end - begin)[1], (end - begin)[0]]) / max(1e-6, float(np.hypot(*(end - begin))))
    for number in range(count):
        aside = (number - (count - 1) / 2) * width * random.uniform(0.9, 1.15) * across
        _line(draw, begin + aside, begin + random.uniform(0.75, 1.0) * (end - begin) + aside, width)


def _microphone(draw: Draw, begin: Real, end: Real, unit: float, random: np.random.Generator) -> None:
    """A rod with a ball at its end."""
    radius = unit * random.uniform(0.06, 0.16)
    _line(draw, begin, end, radius * random.uniform(0.3, 1.4))
    draw.ellipse((end[0] - radius, end[1] - radius, end[0] + radius, end[1] + radius), 255)


def _thing(draw: Draw, begin: Real, end: Real, unit: float, random: np.random.Generator) -> None:
    """A wide bar: a cup, a sleeve, a sheet of paper."""
    _line(draw, begin, end, unit * random.uniform(0.15, 0.4))


KINDS = (_hand, _hand, _microphone, _thing)


def cover(height: int, width: int, random: np.random.Generator) -> F32:
    """What something that reaches into the picture from outside hides: 0..1, float32 [height, width]."""
    image = Image.new("L", (width * FINE, height * FINE))
    size, unit = np.array((width, height)) * float(FINE), FINE * float(min(height, width))
    angle = random.uniform(0, 2 * np.pi)
    outwards = np.array((np.cos(angle), np.sin(angle)))
    begin = size / 2 + 0.9 * outwards * size + unit * random.uniform(-0.2, 0.2, 2)
    end = size / 2 + (0.7 - random.uniform(*REACH)) * outwards * size + unit * random.uniform(-0.2, 0.2, 2)
    KINDS[random.integers(len(KINDS))](ImageDraw.Draw(image), begin, end, unit, random)
    soft = image.filter(ImageFilter.GaussianBlur(FINE * random.uniform(0.3, 1.2))).reduce(FINE)
    return np.asarray(soft, np.float32) / 255


def _painted(picture: F32, random: np.random.Generator) -> F32:
    """Colour of the thing, float32 [3, H, W]: often near the skin's, lit from one side, with some grain."""
    height, width = picture.shape[1:]
    if random.random() < 0.5:
        middle = picture[:, height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
        colour = np.median(middle, axis=(1, 2)) * random.uniform(0.8, 1.2, 3)
    else:
        colour = random.uniform(0, 1) * random.uniform(0.6, 1.0, 3)
    angle = random.uniform(0, 2 * np.pi)
    down, across = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    light = 1 + SHADE * random.uniform(0, 1) * (np.cos(angle) * across + np.sin(angle) * down)
    grain = random.uniform(0, 0.04) * random.standard_normal((height, width))
    painted: F32 = np.clip(colour[:, None, None] * light + grain, 0, 1).astype(np.float32)
    return painted


def occluded(pictures: F32, share: float, random: np.random.Generator) -> tuple[F32, F32]:
    """Pictures float32 [n, 3, H, W] in 0..1, a share of them with something in front of it.

    Returns them and what of them is left to be seen: 0..1, float32 [n, H, W].
    """
    seen = np.ones((len(pictures), *pictures.shape[2:]), np.float32)
    out = pictures.copy()
    for index in np.flatnonzero(random.random(len(pictures)) < share):
        hidden = cover(*pictures.shape[2:], random)
        out[index] += hidden * (_painted(pictures[index], random) - pictures[index])
        seen[index] = 1 - hidden
    return out, seen
