"""One person's face followed through a video: which of several, how small it may be, where it is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mytalk.errors import BadInput
from mytalk.landmarks.detect import POINTS, FaceBox, FaceDetector, FaceMesh
from mytalk.types import F32, U8
from mytalk.video.picture import Picture
from mytalk.video.spool import Spool

FaceChoice = int | Literal["only", "largest"]  # int: 1 is the leftmost
WINDOW_PX = 512  # the mesh sees a window around the face, scaled to this side
WINDOW_FACES = 2.6  # its side in face heights
WINDOW_SLACK = 0.3  # how far, in window sides, the face may be off the middle before the window follows
WINDOW_GROWTH = 1.35  # how much larger or smaller it may become before
SEARCH_PX = 640  # longer side of what the detector sees; a face of 8 % of it is found
DEEP_EVERY = 12  # pictures without a face between two searches through enlarged parts of the picture
TILE_OVERLAP = 0.25
FINE_PX = 1000  # pictures with a longer side than so many are searched in 16 parts, too
RIVAL_EVERY = 10  # pictures between two counts of the faces in view
RIVAL_SIZE = 0.4  # a second face this large, compared with the first, counts as another person
RIVAL_SHARE = 0.1  # of the pictures; fewer are false alarms or passers-by
NEAR = 0.8  # face heights that a face may have moved while it was not seen
JUMP = 0.5  # face heights from one picture to the next that are no motion but another face


@dataclass
class _Window:
    """Part of the picture that the mesh sees, in square pixels."""

    x: float
    y: float
    side: float
    face: float  # height of the face that it was made for

    def fits(self, box: FaceBox) -> bool:
        x, y = box.centre
        off = max(abs(x - self.x), abs(y - self.y)) / self.side
        growth = box.height / max(self.face, 1e-6)
        return off < WINDOW_SLACK / 2 and 1 / WINDOW_GROWTH < growth < WINDOW_GROWTH


def _window_around(box: FaceBox) -> _Window:
    x, y = box.centre
    return _Window(x, y, WINDOW_FACES * box.height, box.height)


def _box_of(points: F32) -> FaceBox:
    low, high = points.min(axis=0), points.max(axis=0)
    return FaceBox(float(low[0]), float(low[1]), float(high[0]), float(high[1]), 1.0)


def _apart(a: FaceBox, b: FaceBox) -> float:
    """Distance in face heights."""
    return float(np.hypot(a.centre[0] - b.centre[0], a.centre[1] - b.centre[1])) / max(b.height, 1e-6)


def people(boxes: Iterable[FaceBox]) -> list[FaceBox]:
    """Faces of different people from left to right: no double detections, no small ones in the background."""
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda b: (-b.score, b.left)):
        if not any(box.meets(other) for other in kept):
            kept.append(box)
    largest = max((box.height for box in kept), default=0.0)
    return sorted((b for b in kept if b.height > RIVAL_SIZE * largest), key=lambda b: b.centre[0])


def _parts(width: float, height: float) -> Iterable[tuple[tuple[float, float, float, float], ...]]:
    """Boxes that cover a picture, coarse ones first: all of it, four parts, sixteen."""
    for count in (1, 2, 4):
        w, h = width / count, height / count
        extra = 0.0 if count == 1 else TILE_OVERLAP / 2
        yield tuple(
            ((i - extra) * w, (j - extra) * h, (i + 1 + extra) * w, (j + 1 + extra) * h)
            for j in range(count)
            for i in range(count)
        )


def _pixels(
    picture: Picture, box: tuple[float, float, float, float], longer_px: int
) -> tuple[U8, float, float, float] | None:
    """A box given in square pixels as RGB, scaled to a longer side; with its place and the scale used.

    Returns picture, left, top, square pixels per pixel of it; None where the box misses the picture.
    """
    aspect = picture.aspect
    left, top, right, bottom = picture.aligned((box[0] / aspect, box[1], box[2] / aspect, box[3]))
    if right - left < 2 or bottom - top < 2:
        return None
    width, height = (right - left) * aspect, float(bottom - top)
    scale = max(width, height) / longer_px
    size = max(2, round(width / scale)), max(2, round(height / scale))
    return picture.rgb((left, top, right, bottom), size), left * aspect, float(top), scale


@dataclass
class _Follower:
    """Follows one face from picture to picture."""

    mesh: FaceMesh
    detector: FaceDetector
    choice: FaceChoice
    window: _Window | None = None
    last: FaceBox | None = None
    seen_last: bool = False
    crowd: int = 0  # people in view when the person was picked
    missed: int = 0
    counts: list[int] = field(default_factory=list)  # people in view, each time they were counted
    heights: list[int] = field(default_factory=list)  # of the most people ever in view, left to right

    def search(self, picture: Picture, deep: bool) -> list[FaceBox]:
        """People in view, from left to right, in square pixels."""
        width, height = picture.width * picture.aspect, float(picture.height)
        for level, parts in enumerate(_parts(width, height)):
            if (level and not deep) or (level > 1 and max(width, height) < FINE_PX):
                return []
            found = []
            for part in parts:
                seen = _pixels(picture, part, SEARCH_PX)
                if seen is None:
                    continue
                rgb, left, top, scale = seen
                found += [
                    FaceBox(
                        left + b.left * scale,
                        top + b.top * scale,
                        left + b.right * scale,
                        top + b.bottom * scale,
                        b.score,
                    )
                    for b in self.detector.find(rgb)
                ]
            if found:
                return people(found)
        return []

    def pick(self, found: list[FaceBox]) -> FaceBox | None:
        """The person to follow, if in view."""
        if not found:
            return None
        if self.last is not None:
            near = min(found, key=lambda box: _apart(box, self.last))  # type: ignore[arg-type]
            if _apart(near, self.last) < NEAR:
                return near
        if isinstance(self.choice, int):
            # With fewer people in view than when the person was picked, counting them means nothing.
            if len(found) < max(self.choice, self.crowd):
                return None
            self.crowd = max(self.crowd, len(found))
            return found[self.choice - 1]
        return max(found, key=lambda box: box.height)

    def look(self, picture: Picture, window: _Window) -> F32 | None:
        """Landmarks in a window, float32 [478, 3], square pixels."""
        half = window.side / 2
        seen = _pixels(
            picture, (window.x - half, window.y - half, window.x + half, window.y + half), WINDOW_PX
        )
        if seen is None:
            return None
        rgb, left, top, scale = seen
        faces = self.mesh.find(rgb)
        if not faces:
            return None
        return (faces[0].points * scale + np.array([left, top, 0], np.float32)).astype(np.float32)

    def whole(self, picture: Picture) -> _Window:
        """All of the picture, for faces that the mesh sees and the detector does not (drawn ones)."""
        width, height = picture.width * picture.aspect, float(picture.height)
        return _Window(width / 2, height / 2, max(width, height), 0.0)

    def acquire(self, picture: Picture) -> F32 | None:
        """Landmarks of the person, searched for in all of the picture."""
        found = self.search(picture, deep=self.missed % DEEP_EVERY == 0)
        box = self.pick(found)
        if box is None and (found or isinstance(self.choice, int)):
            return None
        self.mesh.forget()
        self.window = self.whole(picture) if box is None else _window_around(box)
        points = self.look(picture, self.window)
        if points is not None and box is not None and _apart(_box_of(points), box) > JUMP:
            return None  # the mesh took somebody else
        return points

    def next(self, picture: Picture) -> F32 | None:
        """Landmarks of the person in the next picture."""
        points = None
        if self.window is not None and self.seen_last:
            points = self.look(picture, self.window)
            if points is not None and self.last is not None and _apart(_box_of(points), self.last) > JUMP:
                points = None
        if points is None:
            points = self.acquire(picture)
        self.seen_last = points is not None
        self.missed = 0 if points is not None else self.missed + 1
        if points is not None:
            self.last = _box_of(points)
            if self.window is None or not self.window.fits(self.last):
                self.window = _window_around(self.last)
                self.mesh.forget()
        return points

    def count(self, picture: Picture) -> None:
        """Count the people in view, beside the one who is followed."""
        found = self.search(picture, deep=False)
        if self.seen_last and self.last is not None:
            mine = self.last
            others = [b for b in found if not b.meets(mine) and b.height > RIVAL_SIZE * mine.height]
            found = sorted([*others, mine], key=lambda box: box.centre[0])
        if not found:
            return
        self.counts.append(len(found))
        if len(found) > len(self.heights):
            self.heights = [round(box.height) for box in found]


def find_face(
    pictures: Iterable[Picture],
    spool: Spool,
    what: str,
    choice: FaceChoice = "only",
    on_picture: Callable[[Picture, F32 | None], None] | None = None,
) -> None:
    """Landmarks of one face in every picture, one row [478, 3] of ``spool`` each; NaN where it is not in
    view.

    They are in square pixels. pictures: consumed one at a time. what: the video's name, for messages.
    on_picture: called after each, with the landmarks (None: not in view). Raises ``BadInput`` when there is
    no face, no such one, or ("only") several people are in view.
    """
    missing = np.full((POINTS, 3), np.nan, np.float32)
    seen = 0
    with ExitStack() as stack:
        follower = _Follower(stack.enter_context(FaceMesh()), stack.enter_context(FaceDetector()), choice)
        for number, picture in enumerate(pictures):
            points = follower.next(picture)
            seen += points is not None
            if number % RIVAL_EVERY == 0:
                follower.count(picture)
            spool.append(missing if points is None else points)
            if on_picture is not None:
                on_picture(picture, points)
    if len(spool) == 0:
        raise BadInput(f"{what}: there is no picture in this file")
    _check_found(follower, seen, what)


def _check_found(follower: _Follower, seen: int, what: str) -> None:
    several = sum(count > 1 for count in follower.counts)
    if seen == 0 and isinstance(follower.choice, int) and follower.heights:
        count = len(follower.heights)
        raise BadInput(
            f"{what}: there is no face {follower.choice}: at most {count} in view at a time", "no_such_face"
        )
    if seen == 0:
        raise BadInput(f"{what}: no face was found in the picture", "no_face")
    if follower.choice == "only" and several > RIVAL_SHARE * len(follower.counts):
        high = ", ".join(map(str, follower.heights))
        raise BadInput(
            f"{what}: {len(follower.heights)} faces are in view ({high} pixels high, from left to right);"
            f" choose with --face 1 … {len(follower.heights)}, or --face largest",
            "several_faces",
        )
