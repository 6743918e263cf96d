"""A face that was followed through a video: its smoothed poses and landmarks, and where it is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from mytalk.errors import BadInput
from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import (
    STEADY_REACH,
    Poses,
    frame_to_crop,
    from_canonical,
    mouth_opening,
    poses_of,
    rigid_shape,
    steady_points,
    steady_poses,
    to_canonical,
    upper_displacement,
)
from mytalk.types import F32
from mytalk.video.spool import Spool

MIN_EYES_PX = 16.0  # distance between the eyes below which there are too few pixels to make lips from
MAX_GAP_FRAMES = 5  # a face missing for so long at most is interpolated
CUT_JUMP = 0.5  # a face that moves by so much of its height in one frame was cut, not moved
# Of the mouth's opening: the lip references, closed, half open, open. Wide open is not the largest, which may
# be a yawn, or a bad detection.
REFERENCE_QUANTILES = (0.03, 0.75, 0.97)
BLOCK = 256  # frames in memory at a time
SHAPE_FRAMES = 1500  # frames, spread over the video, that the person's own shape is estimated from
REST_SHARE = 0.15  # of the frames, the most closed ones, that the rest face is the mean of
SMILE_COST = 3.0  # of lips twice as wide as at rest, in units of the way from closed to open
MAX_TURN_DEG = 45.0  # a face turned away further is left as it was filmed

Frames = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """A face in every frame of a video (F frames, K landmarks).

    present: bool [F]; where False the other arrays hold a harmless stand-in. segments: runs of frames with
    the face, without a cut inside. poses: smoothed, per frame. opening: float32 [F], gap between the inner
    lips in canonical units. rest: float32 [K, 3], canonical, the closed mouth. landmarks: rows [K, 3],
    canonical, smoothed where speech does not move them. covered: bool [F], the mouth is
    hidden behind something. doubt: float32 [F], signs that something is there all the same, 0: none.
    """

    present: npt.NDArray[np.bool_]
    segments: tuple[slice, ...]
    poses: Poses
    opening: F32
    width: F32
    rest: F32
    landmarks: Spool
    covered: npt.NDArray[np.bool_]
    doubt: F32

    @property
    def shown(self) -> npt.NDArray[np.bool_]:
        """Where a mouth can be seen, bool [F]: in view, not turned away, nothing in front of it."""
        facing = self.poses.rotation[:, 2, 2] >= np.cos(np.radians(MAX_TURN_DEG))
        shown: npt.NDArray[np.bool_] = self.present & facing & ~self.covered
        return shown

    def canonical(self, frames: Frames | slice) -> F32:
        """Landmarks of some frames, float32 [n, K, 3]."""
        rows = np.arange(len(self.present))[frames]
        return self.landmarks.read(rows)

    def upper(self, layout: Layout) -> F32:
        """Upper-face motion of every frame from the rest face: float32 [F, U]."""
        parts = [
            upper_displacement(self.canonical(part), self.rest, layout)
            for part in blocks(np.arange(len(self.present)))
        ]
        return np.concatenate(parts)

    def strength(self, fade_frames: int) -> F32:
        """How much of the rendered face each frame shows, float32 [F], 0: the frame stays as it was filmed.

        It fades in and out over so many frames where the face appears, leaves, turns away or is covered; at a
        cut, and at either end of the video, there is nothing to fade.
        """
        shown = self.shown
        strength = np.zeros(len(shown), np.float32)
        for run in runs(shown):
            place = np.arange(run.stop - run.start, dtype=np.float32) + 1
            rise = np.ones(len(place), np.float32) if run.start == 0 else place / (fade_frames + 1)
            fall = np.ones(len(place), np.float32)
            if run.stop < len(shown):
                fall = place[::-1] / (fade_frames + 1)
            strength[run] = np.minimum(np.minimum(rise, fall), 1)
        return strength


def runs(flags: npt.NDArray[np.bool_]) -> Iterator[slice]:
    """Stretches of frames that are True, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield slice(int(start), int(stop))


def blocks(frames: Frames) -> Iterator[Frames]:
    """Frames in order, as many at a time as may be in memory."""
    for start in range(0, len(frames), BLOCK):
        yield frames[start : start + BLOCK]


def _fill_gaps(points: Spool, found: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Interpolate short gaps between frames with the face; returns which frames have one now."""
    present = found.copy()
    for before, after in pairwise(np.flatnonzero(found)):
        gap = int(after - before) - 1
        if 0 < gap <= MAX_GAP_FRAMES:
            first, last = points.read([before, after])
            for i in range(1, gap + 1):
                share = np.float32(i / (gap + 1))
                points.write(int(before) + i, (first * (1 - share) + last * share).astype(np.float32))
            present[before + 1 : after] = True
    return present


def _found(points: Spool) -> npt.NDArray[np.bool_]:
    found = [np.isfinite(points.read(part)).all(axis=(1, 2)) for part in blocks(np.arange(len(points)))]
    return np.concatenate(found)


def _segments(points: Spool, present: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Runs of present frames, split where the face jumps (a cut in the film)."""
    centres = np.full((len(present), 2), np.nan)
    heights = np.full(len(present), np.nan)
    for part in blocks(np.flatnonzero(present)):
        rows = points.read(part)
        centres[part], heights[part] = rows[..., :2].mean(axis=1), np.ptp(rows[..., 1], axis=1)
    found: list[slice] = []
    for run in runs(present):
        step = np.linalg.norm(np.diff(centres[run], axis=0), axis=1)
        cuts = run.start + 1 + np.flatnonzero(step > CUT_JUMP * heights[run][:-1])
        ends = [run.start, *map(int, cuts), run.stop]
        found += [slice(a, b) for a, b in pairwise(ends)]
    return tuple(found)


def _concatenated(parts: list[Poses]) -> Poses:
    return Poses(
        np.concatenate([p.scale for p in parts]),
        np.concatenate([p.rotation for p in parts]),
        np.concatenate([p.translation for p in parts]),
    )


def _fitted(points: Spool, frames: Frames, layout: Layout) -> Poses:
    """Unsmoothed poses of the frames with a face."""
    spread = frames[:: -(-len(frames) // SHAPE_FRAMES)]
    shape = rigid_shape(points.read(spread), layout)
    return _concatenated([poses_of(points.read(part), shape, layout) for part in blocks(frames)])


def _steadied(points: Spool, run: slice, poses: Poses, layout: Layout) -> Iterator[tuple[Frames, F32]]:
    """Canonical landmarks of a run of frames, a block at a time; poses: of all frames."""
    still = np.setdiff1d(np.arange(layout.points), layout.compact)
    for part in blocks(np.arange(run.start, run.stop)):
        low = max(run.start, int(part[0]) - STEADY_REACH)
        high = min(run.stop, int(part[-1]) + 1 + STEADY_REACH)
        around = to_canonical(points.read(range(low, high)), poses.select(slice(low, high)))
        inner = slice(int(part[0]) - low, int(part[-1]) + 1 - low)
        rows = around[inner].copy()
        rows[:, still] = steady_points(around[:, still])[inner]
        yield part, rows


def _rest(landmarks: Spool, opening: F32, frames: Frames) -> F32:
    """Mean of the frames with the mouth most closed, float32 [K, 3]."""
    order = frames[np.argsort(opening[frames], kind="stable")]
    closed = np.sort(order[: max(1, int(len(order) * REST_SHARE))])
    total = sum(landmarks.read(part).sum(axis=0, dtype=np.float64) for part in blocks(closed))
    return np.asarray(total / len(closed), np.float32)


def track_face(
    points: Spool,
    landmarks: Spool,
    layout: Layout,
    what: str,
    covered: npt.NDArray[np.bool_] | None = None,
    doubt: F32 | None = None,
) -> FaceTrack:
    """Poses and canonical landmarks from detected landmarks, rows [478, 3] of ``points`` (NaN: not in view).

    points is changed (short gaps are filled). landmarks: an empty spool for the result. Memory does not grow
    with the length but for the poses. covered, doubt: see ``FaceTrack``; None: nowhere. Raises ``BadInput``
    when the face is too small to work with.
    """
    present = _fill_gaps(points, _found(points))
    segments = _segments(points, present)
    frames = np.flatnonzero(present)
    fitted = _fitted(points, frames, layout)
    eyes_px = float(np.median(fitted.scale))
    if eyes_px < MIN_EYES_PX:
        raise BadInput(
            f"{what}: the face is too small: {eyes_px:.0f} pixels between the eyes,"
            f" at least {MIN_EYES_PX:.0f} are needed",
            "face_too_small",
        )
    place = np.cumsum(present) - 1
    within = [slice(int(place[s.start]), int(place[s.stop - 1]) + 1) for s in segments]
    smooth = _concatenated([steady_poses(fitted.select(run), layout) for run in within])
    poses = smooth.select(
        np.maximum(place, 0)
    )  # a frame without the face stands in with the last one with it
    opening, width = np.zeros((2, len(present)), np.float32)
    stand_in = np.zeros((layout.points, 3), np.float32)
    for run in segments:
        while len(landmarks) < run.start:
            landmarks.append(stand_in)
        for part, rows in _steadied(points, run, poses, layout):
            opening[part] = mouth_opening(rows, layout)
            width[part] = np.ptp(rows[:, layout.lips, 0], axis=1)
            for row in rows:
                landmarks.append(row)
            stand_in = rows[-1]
    while len(landmarks) < len(present):
        landmarks.append(stand_in)
    hidden = np.zeros(len(present), bool) if covered is None else covered
    seen = np.flatnonzero(present & ~hidden)
    rest = _rest(landmarks, opening, seen if len(seen) else frames)
    doubt = np.zeros(len(present), np.float32) if doubt is None else doubt
    return FaceTrack(present, segments, poses, opening, width, rest, landmarks, hidden, doubt)


def track_crop_landmarks(track: FaceTrack, frames: Sequence[int] | Frames, matrices: F32) -> F32:
    """The face's own landmarks in some frames, float32 [n, K, 2], pixels of their crops.

    matrices: float32 [F, 2, 3], crop → square pixels, of every frame.
    """
    index = np.array(frames, np.intp)
    points = from_canonical(track.canonical(index), track.poses.select(index))[:, :, :2]
    return np.stack([frame_to_crop(p, matrices[i]) for p, i in zip(points, index, strict=True)])


def pick_references(track: FaceTrack, layout: Layout) -> tuple[int, int, int]:
    """Three frames: mouth closed, half open, open; in view, unsmiling, facing the camera, where possible."""
    frames = np.flatnonzero(track.shown if track.shown.any() else track.present)
    opening = track.opening[frames]
    facing = track.poses.rotation[frames, 2, 2]  # cosine between the face's axis and the camera's
    # Lips that a smile draws apart lie elsewhere than those of speech, and blend into them badly.
    own_width = float(np.ptp(track.rest[layout.lips, 0]))
    smile = np.maximum(0, track.width[frames] / own_width - 1)
    targets = np.quantile(opening, REFERENCE_QUANTILES)
    spread = max(float(targets[2] - targets[0]), 1e-6)
    picked: list[int] = []
    for target in targets:
        cost = np.abs(opening - target) / spread + (facing.max() - facing) + SMILE_COST * smile
        cost += track.doubt[frames]  # a hand in a reference would be on the lips of every picture
        if len(frames) > len(picked):  # three different ones, where there are three
            cost[np.isin(frames, picked)] = np.inf
        picked.append(int(frames[int(np.argmin(cost))]))
    return picked[0], picked[1], picked[2]
