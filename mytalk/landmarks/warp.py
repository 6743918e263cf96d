"""Where in the lip references each part of a mouth is found: flow fields made from landmarks alone.

The landmarks of a reference and of the picture to be made say how the skin between them moved. A smooth
interpolation of that motion lets the appearance model take lips, teeth and skin from the references' own
pixels, at their own sharpness, and leaves it only the remainder to paint.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import CROP
from mytalk.types import F32

FLOW_STRIDE = 4  # crop pixels between the nodes of a flow field
FLOW_ROWS = (26, 62)  # nodes, in units of FLOW_STRIDE from the crop's top: nose base to below the chin
FLOW_COLUMNS = (14, 50)  # from the crop's left edge; symmetric about the middle
SOFTNESS = 0.5  # crop pixels; landmarks are fitted this loosely, so that nearly equal ones do not fight
CONTOURS = ("outer lips", "inner lips", "jaw", "chin", "nose base", "right nasolabial", "left nasolabial")


@cache
def _control_points(layout: Layout) -> npt.NDArray[np.intp]:
    """Indices of the landmarks that carry the flow."""
    chosen = {point for contour in layout.contours if contour.name in CONTOURS for point in contour.points}
    return np.array(sorted(chosen), np.intp)


@cache
def flow_nodes() -> F32:
    """Crop coordinates (x, y) of the flow's nodes, float32 [h·w, 2]: the middles of 4×4 pixels."""
    rows, columns = np.mgrid[slice(*FLOW_ROWS), slice(*FLOW_COLUMNS)]
    nodes: F32 = ((np.stack([columns, rows], axis=-1) + 0.5) * FLOW_STRIDE).reshape(-1, 2).astype(np.float32)
    return nodes


def flow_shape() -> tuple[int, int]:
    """Height and width of a flow field, in nodes."""
    return FLOW_ROWS[1] - FLOW_ROWS[0], FLOW_COLUMNS[1] - FLOW_COLUMNS[0]


def reference_flows(target: F32, references: F32, layout: Layout) -> F32:
    """Where each reference holds what the target shows, float32 [R, 2, 36, 36]: (dx, dy) in crop pixels.

    target: float32 [K, 2], landmarks of the picture to be made, in its crop's pixels. references: float32
    [R, K, 2], landmarks of the references, in their own crops' pixels. What lies at p in the target lies at
    p + flow(p) in the reference. Linear radial basis functions with an affine part (a thin plate without its
    overshoot), exact at the landmarks up to ``SOFTNESS``.
    """
    control = _control_points(layout)
    points = (target[control, :2] / CROP).astype(np.float32)
    offsets = (references[:, control, :2] - target[control, :2]).transpose(1, 0, 2)
    count = len(control)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _distances(points, points) - np.eye(count) * (SOFTNESS / CROP)
    system[:count, count:] = _affine(points)
    system[count:, :count] = system[:count, count:].T
    right = np.zeros((count + 3, 2 * len(references)))
    right[:count] = offsets.reshape(count, -1)
    weights = np.linalg.solve(system, right).astype(np.float32)
    nodes = flow_nodes() / CROP
    flows = _distances(nodes, points) @ weights[:count] + _affine(nodes) @ weights[count:]
    height, width = flow_shape()
    by_axis = flows.reshape(height, width, len(references), 2).transpose(2, 3, 0, 1)
    return np.ascontiguousarray(by_axis, np.float32)


def _distances(a: F32, b: F32) -> F32:
    squared = a @ (-2.0 * b.T)
    squared += np.square(a).sum(axis=1)[:, None]
    squared += np.square(b).sum(axis=1)
    np.maximum(squared, 0.0, out=squared)  # rounding may leave a distance of nought below nought
    distances: F32 = np.sqrt(squared, out=squared)
    return distances


def _affine(points: F32) -> F32:
    return np.concatenate([np.ones((len(points), 1), np.float32), points], axis=1)
