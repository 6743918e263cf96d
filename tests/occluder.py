"""A drawn hand in front of the mouth of the talking face."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mytalk.types import U8

SKIN = (196, 150, 128)
MOUTH = (128, 168)  # of the talking face, pixels


def hand_over(
    pictures: Sequence[U8], frames: Container[int], colour: tuple[int, int, int] = SKIN
) -> list[U8]:
    """Pictures, in some of which four fingers lie over the mouth."""
    out = []
    x, y = MOUTH
    for number, picture in enumerate(pictures):
        if number not in frames:
            out.append(picture)
            continue
        height, width = picture.shape[:2]
        layer = Image.new("RGBA", (width, height))
        draw = ImageDraw.Draw(layer)
        sway = 3 * np.sin(number / 3)
        for finger in range(4):
            top = y - 34 + 17 * finger + sway
            draw.rounded_rectangle((x - 45 + 4 * finger, top, x + 70, top + 16), 8, fill=(*colour, 255))
            draw.line((x - 38, top + 16, x + 70, top + 16), fill=(120, 80, 66, 255), width=2)
        soft = layer.filter(ImageFilter.GaussianBlur(0.7))
        image = Image.fromarray(picture).convert("RGBA")
        out.append(np.asarray(Image.alpha_composite(image, soft).convert("RGB"), np.uint8))
    return out
