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
from mytalk.types import F32, U8

FLOW_STRIDE = 4  # crop pixels between the nodes of a flow field
FLOW_ROWS = (26, 62)  # nodes, in units of FLOW_STRIDE from the crop's top: nose base to below the chin
FLOW_COLUMNS = (14, 50)  # from the crop's left edge; symmetric about the middle
WINDOW_ROWS, WINDOW_COLUMNS = (24, 64), (10, 54)  # the window that holds the mask, in the same units
FINE = 3  # samples in a crop pixel, across and down, of a reference that is looked up
LOBES = 3  # of the Lanczos kernel that makes them
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


@cache
def _node_lines() -> tuple[F32, F32, F32]:
    """The nodes as shares of the crop: x of the columns [w], y of the rows [h, 1], and (1, x, y) [3, h·w]."""
    nodes = flow_nodes() / CROP
    lines = nodes.reshape(*flow_shape(), 2)
    affine: F32 = np.concatenate([np.ones((1, len(nodes)), np.float32), nodes.T])
    return lines[0, :, 0], lines[:, :1, 1], affine


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
    count = len(control)
    points = (target[control, :2] / CROP).astype(np.float32)
    offsets = (references[:, control, :2] - target[control, :2]).transpose(1, 0, 2)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _distances(points[:, 0], points[:, 1], points)
    system[range(count), range(count)] -= SOFTNESS / CROP
    system[:count, count] = 1.0
    system[:count, count + 1 :] = points
    system[count:, :count] = system[:count, count:].T
    right = np.zeros((count + 3, 2 * len(references)))
    right[:count] = offsets.reshape(count, -1)
    weights = np.linalg.solve(system, right).astype(np.float32)
    columns, rows, affine = _node_lines()
    distances = _distances(columns, rows, points).reshape(-1, count)
    flows: F32 = weights[:count].T @ distances.T
    flows += weights[count:].T @ affine
    return flows.reshape(len(references), 2, *flow_shape())


def finer(inside: tuple[int, int], size: int, factor: int) -> F32:
    """Matrix float32 [factor (end - begin), size] that makes the samples between those of a row of pixels.

    inside: begin and end of the part that is sampled. Lanczos; pixels beyond the ends repeat the last one.
    """
    at = inside[0] - 0.5 + (np.arange((inside[1] - inside[0]) * factor) + 0.5) / factor
    near = np.floor(at).astype(int)[:, None] + np.arange(1 - LOBES, 1 + LOBES)
    apart = at[:, None] - near
    kernel = np.sinc(apart) * np.sinc(apart / LOBES)
    matrix = np.zeros((len(at), size), np.float32)
    np.add.at(
        matrix,
        (np.arange(len(at))[:, None], np.clip(near, 0, size - 1)),
        kernel / kernel.sum(axis=1, keepdims=True),
    )
    return matrix


@cache
def _window_finer() -> tuple[F32, F32]:
    down, across = (
        finer((begin * FLOW_STRIDE, end * FLOW_STRIDE), CROP, FINE)
        for begin, end in (WINDOW_ROWS, WINDOW_COLUMNS)
    )
    return down, across


def fine_shape() -> tuple[int, int, int]:
    """Channels, height and width of a fine window."""
    height, width = (end - begin for begin, end in (WINDOW_ROWS, WINDOW_COLUMNS))
    return 3, FINE * FLOW_STRIDE * height, FINE * FLOW_STRIDE * width


def fine_windows(crops: U8) -> U8:
    """Crops uint8 [R, 256, 256, 3] → their windows, sampled three times as fine, uint8 [R, 3, 480, 528].

    In these a position is looked up by rounding it, which costs a runtime a fraction of interpolation and
    keeps details that bilinear interpolation would blur.
    """
    down, across = _window_finer()
    planes = crops.transpose(0, 3, 1, 2).astype(np.float32)
    fine: U8 = np.clip(down @ planes @ across.T + 0.5, 0, 255).astype(np.uint8)
    return fine


def _distances(x: F32, y: F32, points: F32) -> F32:
    """From each (x, y), which broadcast, to points [n, 2]: float32 [..., n]; near ones are exact, too."""
    across, down = np.square(x[..., None] - points[:, 0]), np.square(y[..., None] - points[:, 1])
    squared = across + down
    distances: F32 = np.sqrt(squared, out=squared)
    return distances
