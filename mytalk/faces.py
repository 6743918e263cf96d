"""One person's face followed through a video: which face, where it is missing, its smoothed poses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from mytalk.errors import BadInput
from mytalk.landmarks.detect import POINTS, Face, detect_faces
from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import Poses, fit_poses, mouth_opening, smooth_poses, to_canonical
from mytalk.types import F32, U8

FaceChoice = Literal["only", "largest", "left", "right"]
FACE_CHOICES: tuple[str, ...] = get_args(FaceChoice)
SMALL_PICTURE_PX = 400  # the detector gets smaller pictures doubled, as in training
MIN_EYES_PX = 20.0  # distance between the eyes below which there are too few pixels to make lips from
RIVAL_SIZE = 0.4  # a second face this large, compared with the first, counts as another person
RIVAL_SHARE = 0.1  # of the pictures; fewer are false alarms or passers-by
MAX_GAP_FRAMES = 5  # a face missing for so long at most is interpolated
CUT_JUMP = 0.5  # a face that moves by so much of its height in one frame was cut, not moved


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """A face in every frame of a video (F frames, K landmarks).

    present: bool [F]; where False the other arrays hold a harmless stand-in. segments: runs of frames with
    the face, without a cut inside. poses: smoothed, per frame. canonical: float32 [F, K, 3]. opening: float32
    [F], gap between the inner lips in canonical units.
    """

    present: npt.NDArray[np.bool_]
    segments: tuple[slice, ...]
    poses: Poses
    canonical: F32
    opening: F32


def _enlarged(picture: U8, factor: int) -> U8:
    if factor == 1:
        return picture
    size = (picture.shape[1] * factor, picture.shape[0] * factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), np.uint8)


def _overlap(a: Face, b: Face) -> bool:
    (al, at, ar, ab), (bl, bt, br, bb) = a.box, b.box
    return max(al, bl) < min(ar, br) and max(at, bt) < min(ab, bb)


def _rival(faces: list[Face]) -> bool:
    """Whether another person is in view, too, and not only a second detection of the same face."""
    if len(faces) < 2:
        return False
    (_, top, _, bottom), (_, rival_top, _, rival_bottom) = faces[0].box, faces[1].box
    return rival_bottom - rival_top > RIVAL_SIZE * (bottom - top) and not _overlap(faces[0], faces[1])


def _pick(faces: list[Face], choice: FaceChoice) -> Face:
    if choice in ("left", "right") and _rival(faces):
        ordered = sorted(faces[:2], key=lambda face: face.box[0] + face.box[2])
        return ordered[0 if choice == "left" else 1]
    return faces[0]


def find_face(
    pictures: Iterable[U8],
    what: str,
    choice: FaceChoice = "only",
    on_picture: Callable[[], None] | None = None,
) -> F32:
    """Landmarks of one face in every picture: float32 [F, 478, 3], pixels; NaN where it is not in view.

    pictures: uint8 RGB [H, W, 3], consumed one at a time. what: the video's name, for messages. on_picture:
    called after each. Raises ``BadInput`` when there is no face or ("only") several people are in view.
    """
    rows: list[F32] = []
    rivals, source = 0, iter(pictures)
    first = next(source, None)
    if first is None:
        raise BadInput(f"{what}: there is no picture in this file")
    factor = 2 if min(first.shape[:2]) < SMALL_PICTURE_PX else 1
    missing = np.full((POINTS, 3), np.nan, np.float32)
    detector_input = (_enlarged(picture, factor) for picture in chain([first], source))
    for faces in detect_faces(detector_input, max_faces=2):
        rivals += _rival(faces)
        rows.append(_pick(faces, choice).points / factor if faces else missing)
        if on_picture is not None:
            on_picture()
    points = np.stack(rows)
    found = np.isfinite(points).all(axis=(1, 2))
    if not found.any():
        raise BadInput(f"{what}: no face was found in the picture", "no_face")
    if choice == "only" and rivals > RIVAL_SHARE * found.sum():
        raise BadInput(
            f"{what}: several faces are in view; choose with --face largest, left or right", "several_faces"
        )
    return points.astype(np.float32)


def _fill_gaps(points: F32, found: npt.NDArray[np.bool_]) -> tuple[F32, npt.NDArray[np.bool_]]:
    """Interpolate short gaps between frames with the face; returns points and which frames have one now."""
    filled, present = points.copy(), found.copy()
    known = np.flatnonzero(found)
    for before, after in pairwise(known):
        gap = after - before - 1
        if 0 < gap <= MAX_GAP_FRAMES:
            share = (np.arange(1, gap + 1, dtype=np.float32) / (gap + 1))[:, None, None]
            filled[before + 1 : after] = points[before] * (1 - share) + points[after] * share
            present[before + 1 : after] = True
    return filled, present


def _segments(points: F32, present: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Runs of present frames, split where the face jumps (a cut in the film)."""
    runs: list[slice] = []
    start: int | None = None
    for frame in range(len(present) + 1):
        here = frame < len(present) and bool(present[frame])
        if start is not None and (not here or _jumped(points[frame - 1], points[frame])):
            runs.append(slice(start, frame))
            start = None
        if here and start is None:
            start = frame
    return tuple(runs)


def _jumped(before: F32, after: F32) -> bool:
    height = float(np.ptp(before[:, 1]))
    return float(np.linalg.norm((after - before).mean(axis=0)[:2])) > CUT_JUMP * height


def track_face(points: F32, layout: Layout, what: str) -> FaceTrack:
    """Poses and canonical landmarks from detected landmarks float32 [F, 478, 3] (NaN: not in view).

    Raises ``BadInput`` when the face is too small to work with.
    """
    filled, present = _fill_gaps(points, np.isfinite(points).all(axis=(1, 2)))
    segments = _segments(filled, present)
    fitted = fit_poses(filled[present], layout)
    eyes_px = float(np.median(fitted.scale))
    if eyes_px < MIN_EYES_PX:
        raise BadInput(
            f"{what}: the face is too small: {eyes_px:.0f} pixels between the eyes, not {MIN_EYES_PX:.0f}",
            "face_too_small",
        )
    place = np.cumsum(present) - 1
    smooth = [smooth_poses(fitted.select(slice(place[s.start], place[s.stop - 1] + 1))) for s in segments]
    at = np.maximum(place, 0)  # a frame without the face stands in with the last one that has it
    poses = Poses(
        np.concatenate([p.scale for p in smooth])[at],
        np.concatenate([p.rotation for p in smooth])[at],
        np.concatenate([p.translation for p in smooth])[at],
    )
    canonical = to_canonical(filled[present][at], poses)
    return FaceTrack(present, segments, poses, canonical, mouth_opening(canonical, layout))


def pick_references(track: FaceTrack) -> tuple[int, int, int]:
    """Three frames with the mouth closed, half open and open, looking at the camera if there is a choice."""
    frames = np.flatnonzero(track.present)
    opening = track.opening[frames]
    facing = track.poses.rotation[frames, 2, 2]  # cosine between the face's axis and the camera's
    # Wide open is the 97th percentile, not the largest: that one may be a yawn, or a bad detection.
    targets = np.quantile(opening, (0.03, 0.75, 0.97))
    spread = max(float(targets[2] - targets[0]), 1e-6)
    picked: list[int] = []
    for target in targets:
        cost = np.abs(opening - target) / spread + (facing.max() - facing)
        cost[np.isin(frames, picked)] = np.inf
        picked.append(int(frames[int(np.argmin(cost))]))
    return picked[0], picked[1], picked[2]
