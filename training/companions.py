"""Landmarks that lie beside a video, NAME.npz, in the place of a detector: the only way to ``dense669``.

No public detector finds the paper's 669 points; rendered heads know theirs. The file holds ``landmarks``,
float32 [F, K, 2], or what the synthetic heads come with: ``landmarks_delta32``, int16 [F, K, 2], whose
running sum over frames divided by 32 is the same; pixels of the picture, x right and y down, centres at +0.5,
one row for every frame of a video of 25 frames/s.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from mytalk.actors.faces import track_face
from mytalk.clock import FPS
from mytalk.errors import BadInput
from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import lift
from mytalk.types import F32
from mytalk.video.media import probe_video
from mytalk.video.spool import Spool
from training.tracks import Track

NO_LANDMARKS = "no_landmarks"
DELTA_UNITS = 32  # steps of a pixel


def read_companion(video: Path, layout: Layout) -> F32:
    """Landmarks float32 [F, K, 2], pixels, of a video; ``BadInput`` (no_landmarks) where there are none."""
    path = video.with_suffix(".npz")
    try:
        with np.load(path, allow_pickle=False) as data:
            if "landmarks" in data:
                points = np.asarray(data["landmarks"], np.float32)
            else:
                steps = data["landmarks_delta32"].astype(np.int32)
                points = (np.cumsum(steps, axis=0) / DELTA_UNITS).astype(np.float32)
    except FileNotFoundError as error:
        raise BadInput(
            f"{video}: no {path.name} with {layout.name} landmarks beside it", NO_LANDMARKS
        ) from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise BadInput(f"{video}: {path.name} holds no landmarks ({error})", NO_LANDMARKS) from error
    if points.ndim != 3 or points.shape[1:] != (layout.points, 2) or not np.isfinite(points).all():
        wanted = f"finite [F, {layout.points}, 2]"
        raise BadInput(f"{video}: {path.name} must hold {wanted}, not {points.shape}", NO_LANDMARKS)
    return points


def follow_companion(video: Path, layout: Layout, frames: int | None = None) -> Track:
    """The face of a video, or of its first so many frames, from the landmarks beside it."""
    rate = probe_video(video).fps
    if rate != FPS:
        raise BadInput(f"{video}: {float(rate):g} frames/s; landmarks go with {FPS} alone", NO_LANDMARKS)
    found = lift(read_companion(video, layout)[:frames], layout)
    with Spool((layout.points, 3)) as points, Spool((layout.points, 3)) as landmarks:
        for row in found:
            points.append(row)
        track = track_face(points, landmarks, layout, str(video))
        return Track(track, landmarks.read(range(len(landmarks))))
