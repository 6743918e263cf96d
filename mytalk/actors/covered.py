"""Where something stands in front of a mouth: a hand, a cup, a microphone.

Lips and the skin around them are looked up, in every picture, at places that the landmarks tell, so that the
samples stay with the skin however head and mouth move. What the samples usually look like is learnt from the
video itself, be it bearded, dark or drawn; a picture in which many of them look otherwise at once, while the
upper face looks as always, is covered. The inside of the mouth is not looked at.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mytalk.actors.faces import blocks, runs
from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import (
    CROP,
    CROP_CENTRE,
    CROP_SIDE,
    crop_matrices,
    frame_to_crop,
    poses_of,
)
from mytalk.landmarks.warp import flow_nodes, reference_flows
from mytalk.types import F32
from mytalk.video.picture import Picture
from mytalk.video.spool import Spool

NODE_STEP = 2  # every second node of a flow field, across and down: 8 crop pixels
AROUND_PX, INSIDE_PX = (
    20.0,
    2.0,
)  # crop pixels around the outer lips that count, around the inner ones that do not
SEEN_PX = 64  # the crop is looked at this small, so that no sample hangs on a pixel
FIT_FRAMES = 1500  # spread over the video, that its usual look is learnt from
USUAL_SHARE = 0.6  # of these, the ones most alike, that make the usual look
FIT_ROUNDS = 6
OTHER, OTHER_SHARE, OTHER_NOISE = (
    10.0,
    0.12,
    5.0,
)  # levels, share of the level, times its usual change: looks otherwise
GAIN = (0.5, 2.0)  # brightness that may come and go
COVERED, STILL_COVERED = 0.36, 0.17  # share of the samples that look otherwise: it begins, it lasts
LIT = 0.5  # of that share, on the upper face: then it is the light, or another take
SHORTEST_S = 0.1  # less is a flicker of the detector


@cache
def _places(layout: Layout) -> tuple[F32, npt.NDArray[np.intp]]:
    """Landmarks of the mean face in its crop, float32 [K, 2], and which nodes of a flow field are samples."""
    face = ((layout.template[:, :2] - np.array(CROP_CENTRE[:2])) * (CROP / CROP_SIDE) + CROP / 2).astype(
        np.float32
    )
    lines = {contour.name: face[list(contour.points)] for contour in layout.contours}
    nodes = flow_nodes()
    use = (_depth(nodes, lines["outer lips"]) > -AROUND_PX) & (
        _depth(nodes, lines["inner lips"]) < -INSIDE_PX
    )
    width = round(float(np.sqrt(len(nodes))))
    index = np.arange(len(nodes))
    use &= (index % width % NODE_STEP == 1) & (index // width % NODE_STEP == 1)
    return face, np.flatnonzero(use)


def _depth(points: F32, outline: F32) -> F32:
    """How far points [n, 2] lie within a closed outline [m, 2]; negative: outside of it."""
    begin, step = outline, np.roll(outline, -1, axis=0) - outline
    length = np.maximum(np.square(step).sum(axis=1), 1e-9)
    along = np.clip(((points[:, None] - begin) * step).sum(axis=2) / length, 0, 1)
    apart = np.linalg.norm(points[:, None] - begin - along[..., None] * step, axis=2).min(axis=1)
    y, (y0, y1) = points[:, 1:], (begin[:, 1], np.roll(begin[:, 1], -1))
    rise = np.where(step[:, 1] == 0, 1e-9, step[:, 1])
    crossed = ((y0 <= y) != (y1 <= y)) & (points[:, :1] < begin[:, 0] + (y - y0) / rise * step[:, 0])
    inside = crossed.sum(axis=1) % 2 == 1
    depth: F32 = np.where(inside, apart, -apart).astype(np.float32)
    return depth


def _looked_up(picture: Picture, points: F32, layout: Layout) -> F32 | None:
    """Colours of the samples, then of the rigid landmarks, float32 [S + R, 3], 0..255.

    points: float32 [K, 3], the face in square pixels. None where it lies outside the picture.
    """
    template, nodes = _places(layout)
    pose = poses_of(points[None], layout.template[layout.rigid].astype(np.float64), layout)
    matrix = crop_matrices(pose)[0]
    flow = reference_flows(template, frame_to_crop(points[:, :2], matrix)[None], layout)[0]
    samples = (flow_nodes() + flow.reshape(2, -1).T)[nodes]
    wanted = np.concatenate([samples @ matrix[:, :2].T + matrix[:, 2], points[layout.rigid, :2]])
    corners = np.array([(x, y, 1) for x in (0, CROP) for y in (0, CROP)]) @ matrix.T
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    box = picture.aligned((left / picture.aspect, top, right / picture.aspect, bottom))
    if box[2] - box[0] < 2 or box[3] - box[1] < 2:
        return None
    unit = max(1.0, float(pose.scale[0]) * CROP_SIDE / SEEN_PX)  # square pixels per pixel looked at
    size = (
        max(1, round((box[2] - box[0]) * picture.aspect / unit)),
        max(1, round((box[3] - box[1]) / unit)),
    )
    seen = picture.rgb(box, size).astype(np.float32)
    across, down = size[0] / ((box[2] - box[0]) * picture.aspect), size[1] / (box[3] - box[1])
    return _sampled(seen, (wanted - (box[0] * picture.aspect, box[1])) * (across, down) - 0.5)


def _sampled(rgb: F32, places: npt.NDArray[np.floating[Any]]) -> F32:
    """Bilinear samples of float32 [H, W, 3] at (x, y) places [n, 2]; beyond the edge, the edge's."""
    last = np.array((rgb.shape[1] - 1, rgb.shape[0] - 1))
    places = np.clip(places, 0, last)
    low = np.minimum(np.floor(places).astype(int), np.maximum(last - 1, 0))
    high = np.minimum(low + 1, last)
    x, y = (places - low).T[..., None]
    top = rgb[low[:, 1], low[:, 0]] * (1 - x) + rgb[low[:, 1], high[:, 0]] * x
    bottom = rgb[high[:, 1], low[:, 0]] * (1 - x) + rgb[high[:, 1], high[:, 0]] * x
    out: F32 = (top * (1 - y) + bottom * y).astype(np.float32)
    return out


class MouthWatch:
    """Looks at one face's mouth in picture after picture, then tells where it was covered.

    What was seen waits in an unnamed file. Closing twice is harmless.
    """

    def __init__(self, layout: Layout, folder: Path | None = None) -> None:
        """folder: where there is room for the file; None: where temporary files go."""
        self._layout = layout
        self._samples = len(_places(layout)[1])
        self._seen = Spool((self._samples + len(layout.rigid), 3), folder)
        self._times: list[float] = []

    def __enter__(self) -> Self:
        """The watch itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the room back."""
        self.close()

    def close(self) -> None:
        """Give the room back."""
        self._seen.close()

    def look(self, picture: Picture, points: F32 | None) -> None:
        """The next picture, with the face's landmarks float32 [K, 3] in square pixels; None: not in view."""
        row = None if points is None else _looked_up(picture, points, self._layout)
        blank = np.full((self._samples + len(self._layout.rigid), 3), np.nan, np.float32)
        self._seen.append(blank if row is None else row)
        self._times.append(picture.time_s)

    def covered(self) -> npt.NDArray[np.bool_]:
        """In which pictures the mouth is covered, bool [F]."""
        mouth = self.otherwise()
        out = np.zeros(len(mouth), bool)
        step_s = float(np.median(np.diff(self._times))) if len(self._times) > 1 else 1.0
        for run in runs(mouth > STILL_COVERED):
            begun = int((mouth[run] > COVERED).sum())
            out[run] = begun > 0 and begun * step_s >= SHORTEST_S - step_s / 2
        return out

    def doubt(self) -> F32:
        """How likely something is in front of a mouth that does not count as covered, 0 (no sign) upwards,
        float32 [F].
        """
        return np.maximum(self.otherwise() / STILL_COVERED - 1, 0)

    def otherwise(self) -> F32:
        """Share of the samples around the mouth that look otherwise while the upper face does not, float32
        [F].
        """
        mouth, upper = self.shares()
        seen = np.flatnonzero(np.isfinite(mouth))
        if not len(seen):
            return np.zeros(len(mouth), np.float32)
        share = np.where(upper < LIT * mouth, mouth, 0)[seen]
        # Where the detector loses the face for a moment, a hand that was there is still there.
        return np.interp(np.arange(len(mouth)), seen, share).astype(np.float32)

    def shares(self) -> tuple[F32, F32]:
        """Share of the samples that look otherwise than they usually do: around the mouth, and on the upper
        face; float32 [F] each, NaN where the face is not in view.
        """
        count = len(self._seen)
        known = np.concatenate(
            [np.isfinite(self._seen.read(part)[:, 0, 0]) for part in blocks(np.arange(count))] or [[]]
        )
        frames = np.flatnonzero(known)
        mouth, upper = np.full((2, count), np.nan, np.float32)
        if not len(frames):
            return mouth, upper
        usual, limit, base = self._usual(frames[:: -(-len(frames) // FIT_FRAMES)])
        for part in blocks(frames):
            rows = self._evened(self._seen.read(part), base)
            other = (np.abs(rows - usual) > limit).any(axis=2)
            mouth[part] = other[:, : self._samples].mean(axis=1)
            upper[part] = other[:, self._samples :].mean(axis=1)
        return mouth, upper

    def _evened(self, rows: F32, base: F32) -> F32:
        """Rows [n, S + R, 3] as if the light had always been the same. base: usual colours of the upper
        face, [R, 3].
        """
        ratio = (rows[:, self._samples :] + 1) / (base + 1)
        gain = np.clip(np.median(ratio, axis=1, keepdims=True), *GAIN)
        evened: F32 = rows / gain
        return evened

    def _usual(self, frames: npt.NDArray[np.intp]) -> tuple[F32, F32, F32]:
        """Usual colours [S + R, 3], how far off is otherwise, and the upper face's colours [R, 3]."""
        rows = self._seen.read(frames)
        base: F32 = np.median(rows[:, self._samples :], axis=0)
        rows = self._evened(rows, base)
        mouth = rows[:, : self._samples]
        off = np.abs(mouth - np.median(mouth, axis=0)).mean(axis=(1, 2))
        for _ in range(FIT_ROUNDS):
            alike = np.argsort(off, kind="stable")[: max(1, int(np.ceil(len(rows) * USUAL_SHARE)))]
            usual = rows[alike].mean(axis=0)
            off = np.abs(mouth - usual[: self._samples]).mean(axis=(1, 2))
        change = np.median(np.abs(rows[alike] - usual), axis=0)
        return usual, np.maximum(OTHER + OTHER_SHARE * usual, OTHER_NOISE * change), base
