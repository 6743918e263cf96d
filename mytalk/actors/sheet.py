"""A contact sheet of an actor: what was cropped, hidden, drawn and rendered, for a person to look at."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from mytalk.actors.actor import Actor
from mytalk.landmarks.draw import draw_landmarks
from mytalk.landmarks.normalise import CROP
from mytalk.render.compose import crop, hidden_mask
from mytalk.render.renderer import Renderer, crop_landmarks
from mytalk.types import U8, FrameSpec, PictureJob
from mytalk.video.planar import rgb_of

COLUMNS = 4  # moments of the clip
LABEL_PX = 18


def _fit(picture: U8) -> U8:
    """A picture scaled into a square cell of the sheet, uint8 [256, 256, 3]."""
    image = Image.fromarray(picture)
    image.thumbnail((CROP, CROP), Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CROP, CROP))
    cell.paste(image, ((CROP - image.width) // 2, (CROP - image.height) // 2))
    return np.asarray(cell, np.uint8)


def _row(label: str, cells: list[U8]) -> U8:
    strip = Image.new("RGB", (CROP * COLUMNS, LABEL_PX), (32, 32, 32))
    ImageDraw.Draw(strip).text((4, 3), label, fill=(255, 255, 255))
    blank = np.zeros((CROP, CROP, 3), np.uint8)
    padded = (cells + [blank] * COLUMNS)[:COLUMNS]
    return np.concatenate([np.asarray(strip, np.uint8), np.concatenate(padded, axis=1)])


def contact_sheet(actor: Actor, renderer: Renderer | None = None) -> U8:
    """A sheet uint8 RGB [H, 1024, 3] with labelled rows; idle pictures only with a prepared renderer."""
    card, motion = actor.card, actor.motion
    moments = [round(i * (card.frames - 1) / (COLUMNS - 1)) for i in range(COLUMNS)]
    frames = actor.frames
    crops = [crop(frames[i], actor.matrices[i]) for i in moments]
    hidden = hidden_mask()[..., None]
    masked = [np.where(hidden > 0, 128, c).astype(np.uint8) for c in crops]
    drawn = []
    for i, face in zip(moments, crops, strict=True):
        points = crop_landmarks(
            motion.rest,
            motion.canonical[i],
            (motion.canonical[i] - motion.rest)[actor.layout.compact],
            pose=motion.poses.select(slice(i, i + 1)),
            matrix=actor.matrices[i],
            layout=actor.layout,
        )
        image = draw_landmarks(points, actor.layout)
        drawn.append(np.maximum(face * 0.6, image.transpose(1, 2, 0) * 255).astype(np.uint8))
    order = motion.order
    wrap = [int(order[n % len(order)]) for n in (-2, -1, 0, 1)]
    rows = [
        _row(
            f"{card.name}: {card.title}; frames {moments} of {card.frames}",
            [_fit(frames[i]) for i in moments],
        ),
        _row("face crops", crops),
        _row("what the encoder sees of them (grey is hidden)", masked),
        _row("landmarks drawn over them", drawn),
        _row("lip references: closed, half open, open", list(actor.references.pictures)),
        _row(f"where the loop closes: frames {wrap}", [_fit(frames[i]) for i in wrap]),
    ]
    if renderer is not None:
        specs = tuple(FrameSpec(i, None) for i in moments)
        idle = [rgb_of(picture) for picture in renderer.render(PictureJob(0, specs)).pictures]
        rows.append(_row("idle pictures", [_fit(picture) for picture in idle]))
        rows.append(
            _row("idle crops", [crop(p, actor.matrices[i]) for i, p in zip(moments, idle, strict=True)])
        )
    return np.concatenate(rows)
