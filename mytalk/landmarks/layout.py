"""A landmark layout is data: point count, index sets, contours and a mean face.

``mediapipe478``: MediaPipe's face mesh; what users' videos go through. ``dense669``: the paper's split into
411 compact and 258 other points (0.B.1.1), over points of the synthetic heads; its points have no depth of
their own (see ``normalise.lift``). Both templates stand in the same canonical frame.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from mytalk.errors import BadInput
from mytalk.types import F32

LAYOUTS = ("mediapipe478", "dense669")


@dataclass(frozen=True, slots=True)
class Contour:
    """A line of the landmark image: point indices in order, and the image channel (0..2) it goes to."""

    name: str
    channel: int
    closed: bool
    points: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """Index sets over the layout's points.

    compact: int32 [Kc] lower-face points that the motion model generates (paper 0.B.1.1).
    upper: int32 [Ku] points given to it as prefix.
    rigid: int32 [R] points that neither speech nor expression moves. lips: int32.
    coordinates: numbers of a point that are measured: 3, or 2 where a detector knows x and y alone.
    mouth_gap: int32 [2, n] pairs above and below the gap between the inner lips.
    template: float32 [points, 3] mean face in the canonical frame.
    """

    name: str
    points: int
    coordinates: int
    compact: npt.NDArray[np.int32]
    upper: npt.NDArray[np.int32]
    rigid: npt.NDArray[np.int32]
    lips: npt.NDArray[np.int32]
    mouth_gap: npt.NDArray[np.int32]
    contours: tuple[Contour, ...]
    template: F32


@cache
def load_layout(name: str = "mediapipe478") -> Layout:
    """Load a layout by name; raises ``BadInput`` for an unknown one."""
    if name not in LAYOUTS:
        raise BadInput(f"unknown landmark layout {name!r}; known: {', '.join(LAYOUTS)}")
    raw = json.loads(resources.files("mytalk.landmarks").joinpath(f"{name}.json").read_text())
    sets = {key: np.array(raw[key], np.int32) for key in ("compact", "upper", "rigid", "lips", "mouth_gap")}
    contours = tuple(
        Contour(c["name"], c["channel"], c["closed"], tuple(c["points"])) for c in raw["contours"]
    )
    return Layout(
        name=raw["name"],
        points=raw["points"],
        coordinates=raw.get("coordinates", 3),
        contours=contours,
        template=np.array(raw["template"], np.float32),
        **sets,
    )
