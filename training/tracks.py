"""A face followed through a clip, all of it in memory: clips are short, and are read more than once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.actors.covered import MouthWatch
from mytalk.actors.faces import FaceTrack, pick_references, track_face
from mytalk.actors.follow import FaceChoice, find_face
from mytalk.clock import FPS
from mytalk.errors import BadInput
from mytalk.landmarks.detect import POINTS
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import Poses, from_canonical
from mytalk.types import F32
from mytalk.video.media import frames_at_rate
from mytalk.video.picture import Picture
from mytalk.video.spool import Spool

RATE = Fraction(FPS)


@dataclass(frozen=True, slots=True)
class Track:
    """A face in F frames at 25 frames/s, see ``FaceTrack``; canonical: its landmarks, float32 [F, 478, 3]."""

    face: FaceTrack
    canonical: F32

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Frames with the face: bool [F]."""
        return self.face.present

    @property
    def poses(self) -> Poses:
        """Smoothed pose of every frame."""
        return self.face.poses

    @property
    def opening(self) -> F32:
        """Gap between the inner lips, canonical units: float32 [F]."""
        return self.face.opening

    def points(self) -> F32:
        """Landmarks in square pixels: float32 [F, 478, 3]."""
        return from_canonical(self.canonical, self.poses)

    def references(self, frames: int | None = None) -> list[int]:
        """Frames of the lip references, from the first so many frames (None: all)."""
        half = slice(0, frames)
        part = replace(
            self.face,
            present=self.present[half],
            poses=self.poses.select(half),
            opening=self.opening[half],
            width=self.face.width[half],
            covered=self.face.covered[half],
        )
        return list(pick_references(part, load_layout()))


def detect(pictures: Iterable[Picture], what: str, face: FaceChoice) -> F32:
    """Landmarks float32 [F, 478, 3], square pixels, of one face in every picture; NaN where it is gone.

    Raises ``BadInput`` (no_face, several_faces) as ``find_face`` does.
    """
    with Spool((POINTS, 3)) as found:
        find_face(pictures, found, what, face)
        return found.read(range(len(found)))


def follow_pictures(pictures: Iterable[Picture], what: str, face: FaceChoice) -> Track:
    """Follow a face through pictures, 25 a second, and notice what is in front of its mouth.

    Raises ``BadInput`` as ``find_face`` does.
    """
    layout = load_layout()
    with Spool((POINTS, 3)) as points, Spool((POINTS, 3)) as landmarks, MouthWatch(layout) as watch:
        find_face(pictures, points, what, face, watch.look)
        track = track_face(points, landmarks, layout, what, watch.covered())
        return Track(track, landmarks.read(range(len(landmarks))))


def follow(video: Path, face: FaceChoice, frames: int | None = None) -> Track:
    """Follow a face through a video at 25 frames/s, or through its first so many frames."""
    with Spool((POINTS, 3)) as points, Spool((POINTS, 3)) as landmarks:
        find_face(frames_at_rate(video, RATE), points, str(video), face)
        if frames is not None and frames < len(points):
            kept = points.read(range(frames))
            if not np.isfinite(kept).all(axis=(1, 2)).any():
                raise BadInput(f"{video}: the face comes after the sound has ended", "no_face")
            with Spool((POINTS, 3)) as shorter:
                for row in kept:
                    shorter.append(row)
                track = track_face(shorter, landmarks, load_layout(), str(video))
        else:
            track = track_face(points, landmarks, load_layout(), str(video))
        return Track(track, landmarks.read(range(len(landmarks))))
