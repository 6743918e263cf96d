"""What a model shows for a clip: from the clip's own landmarks (appearance) or from speech (pipeline)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from mytalk.actors.tuned import Tuning
from mytalk.dubbing.dub import RENDER_BATCH, dub
from mytalk.engines.engine import Engine
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import frame_to_crop
from mytalk.render.compose import crop, face_outline, paste
from mytalk.render.renderer import decode_landmarks, lip_source
from mytalk.types import U8
from mytalk.video.media import read_at_rate
from training.reels import Source
from training.tracks import RATE


def true_landmark_pictures(engine: Engine, source: Source, tuning: Tuning | None = None) -> Iterator[U8]:
    """Full pictures with the lips drawn from each frame's own landmarks, pasted back as the product does."""
    tuned = None if tuning is None else tuning.decoder
    layout, track = load_layout(), source.track
    pictures, lips = read_at_rate(source.path, RATE), lip_source(source.references)
    for first in range(0, source.frames, RENDER_BATCH):
        batch = list(islice(pictures, RENDER_BATCH))
        index = range(first, first + len(batch))
        points = [frame_to_crop(source.points[i, :, :2], source.matrices[i]) for i in index]
        faces = np.stack([crop(picture, source.matrices[i]) for picture, i in zip(batch, index, strict=True)])
        latents = engine.encode_appearance(source.references.pictures, faces)
        made = decode_landmarks(engine, points, latents, lips, layout, tuned)
        for picture, face, own, i in zip(batch, made, points, index, strict=True):
            pasted = paste(picture, face, source.matrices[i], outline=face_outline(own))
            yield pasted if track.present[i] else picture


def dubbed(
    engine: Engine, source: Source, speech: Path, out: Path, tuning: Tuning | None = None
) -> Iterator[U8]:
    """Pictures of the source saying ``speech``, by the product's own ``dub``, which writes ``out``."""
    dub(source.path, speech, out, engine, face="largest", tune=None if tuning is None else lambda _: tuning)
    return read_at_rate(out, RATE)
