"""Rigid pose of a face from its upper part; the canonical frame, in which speech alone moves the lower face.

Canonical frame: 3-D, origin between the eyes, unit = distance between the eye centres, x right in the
picture, y down, z away from the camera. The pose is fitted to points that speech does not move
(``Layout.rigid``), so nothing that speech moves can move the frame it is measured in (design section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mytalk.errors import BadInput
from mytalk.landmarks.layout import Layout
from mytalk.types import F32

Real = npt.NDArray[np.floating[Any]]  # float64 where the fit needs it
CROP = 256  # pixels of the square appearance crop
CROP_SIDE = 2.4  # canonical units that the crop shows
CROP_CENTRE = (0.0, 1.0, -0.2)  # canonical point at the crop's centre: below the nose, on the face's surface


@dataclass(frozen=True, slots=True)
class Poses:
    """Similarity poses of F frames: pixel = scale · rotation @ canonical + translation.

    scale: float32 [F], pixels per canonical unit. rotation: float32 [F, 3, 3].
    translation: float32 [F, 3], pixels.
    """

    scale: F32
    rotation: F32
    translation: F32

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.scale)

    def select(self, index: npt.NDArray[np.intp] | slice) -> Poses:
        """Poses of some frames."""
        return Poses(self.scale[index], self.rotation[index], self.translation[index])


def _umeyama(source: Real, targets: Real) -> Poses:
    """Least-squares similarity that takes source [R, 3] to each of targets [F, R, 3]."""
    source_mean, target_mean = source.mean(axis=0), targets.mean(axis=1)
    centred = source - source_mean
    covariance = np.einsum("fri,rj->fij", targets - target_mean[:, None], centred) / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.ones_like(singular)
    sign[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    rotation = (u * sign[:, None, :]) @ vt
    scale = (singular * sign).sum(axis=1) / np.square(centred).sum(axis=1).mean()
    translation = target_mean - scale[:, None] * (rotation @ source_mean)
    return Poses(scale.astype(np.float32), rotation.astype(np.float32), translation.astype(np.float32))


def fit_poses(points: F32, layout: Layout, iterations: int = 3) -> Poses:
    """Pose of every frame of one person's clip.

    points: float32 [F, 478, 3], pixels, all finite. The person's own rigid shape is estimated along the
    way (generalised Procrustes), so that a face unlike the template still gets an unbiased pose.
    Raises ``BadInput`` for wrong shapes or non-finite points.
    """
    if points.ndim != 3 or points.shape[1:] != (layout.points, 3) or len(points) == 0:
        raise BadInput(f"points must be [F, {layout.points}, 3], not {points.shape}")
    if not np.isfinite(points).all():
        raise BadInput("points of a frame without a face cannot have a pose")
    rigid = points[:, layout.rigid].astype(np.float64)
    shape = layout.template[layout.rigid].astype(np.float64)
    poses = _umeyama(shape, rigid)
    for _ in range(iterations):
        own = _apply_inverse(rigid, poses).mean(axis=0)
        to_template = _umeyama(own, layout.template[layout.rigid][None].astype(np.float64))
        shape = _apply(own[None], to_template)[0]
        poses = _umeyama(shape, rigid)
    return poses


def _apply(canonical: Real, poses: Poses) -> Real:
    turned: Real = np.einsum("fij,fpj->fpi", poses.rotation, canonical)
    return poses.scale[:, None, None] * turned + poses.translation[:, None]


def _apply_inverse(points: Real, poses: Poses) -> Real:
    moved = (points - poses.translation[:, None]) / poses.scale[:, None, None]
    turned_back: Real = np.einsum("fji,fpj->fpi", poses.rotation, moved)
    return turned_back


def to_canonical(points: F32, poses: Poses) -> F32:
    """Pixels float32 [F, K, 3] → canonical float32 [F, K, 3]."""
    return _apply_inverse(points, poses).astype(np.float32)


def from_canonical(canonical: F32, poses: Poses) -> F32:
    """Canonical float32 [F, K, 3] → pixels float32 [F, K, 3]."""
    return _apply(canonical, poses).astype(np.float32)


def _smooth(values: F32, sigma_frames: float) -> F32:
    """Gaussian smoothing over time with mirrored ends; values [F, ...]."""
    radius = max(1, round(3 * sigma_frames))
    kernel = np.exp(-0.5 * np.square(np.arange(-radius, radius + 1) / sigma_frames))
    kernel /= kernel.sum()
    padded = np.concatenate([values[:1].repeat(radius, 0), values, values[-1:].repeat(radius, 0)])
    out = np.zeros(values.shape, np.float64)
    for i, weight in enumerate(kernel):
        out += weight * padded[i : i + len(values)]
    return out.astype(np.float32)


def smooth_poses(poses: Poses, sigma_frames: float = 1.0) -> Poses:
    """Poses smoothed over time (offline, zero lag); averaged rotations are projected back to rotations."""
    u, _, vt = np.linalg.svd(_smooth(poses.rotation, sigma_frames))
    return Poses(
        np.exp(_smooth(np.log(poses.scale), sigma_frames)),
        (u @ vt).astype(np.float32),
        _smooth(poses.translation, sigma_frames),
    )


def mouth_opening(canonical: F32, layout: Layout) -> F32:
    """Inner-lip gap in canonical units: float32 [F] from canonical [F, 478, 3]."""
    top, bottom = layout.mouth_gap
    gaps: Real = np.linalg.norm(canonical[:, bottom] - canonical[:, top], axis=-1)
    opening: F32 = gaps.mean(axis=-1).astype(np.float32)
    return opening


def rest_face(canonical: F32, layout: Layout, share: float = 0.15) -> F32:
    """Closed-mouth rest face float32 [478, 3]: the mean of the most closed ``share`` of the frames."""
    opening = mouth_opening(canonical, layout)
    count = max(1, int(len(opening) * share))
    rest: F32 = canonical[np.argsort(opening, kind="stable")[:count]].mean(axis=0).astype(np.float32)
    return rest


def upper_displacement(canonical: F32, rest: F32, layout: Layout) -> F32:
    """Upper-face motion from the rest face: float32 [F, U], x and y of ``layout.upper``, canonical units."""
    moved = canonical[:, layout.upper, :2] - rest[layout.upper, :2]
    return moved.reshape(len(canonical), -1).astype(np.float32)


def crop_matrices(poses: Poses) -> F32:
    """Affine maps from crop pixels (x, y, centres at +0.5) to frame pixels, float32 [F, 2, 3].

    The crop is a square of ``CROP_SIDE`` canonical units around ``CROP_CENTRE``, turned with the head's roll.
    """
    centre = _apply(np.broadcast_to(np.array(CROP_CENTRE, np.float32), (len(poses), 1, 3)), poses)[:, 0, :2]
    # Roll: direction of the face's x axis in the picture, so that yaw and pitch do not turn the crop.
    axis = poses.rotation[:, :2, 0]
    axis = axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-6)
    unit = (poses.scale * (CROP_SIDE / CROP))[:, None]
    right, down = axis * unit, np.stack([-axis[:, 1], axis[:, 0]], axis=1) * unit
    matrix = np.empty((len(poses), 2, 3), np.float32)
    matrix[:, :, 0], matrix[:, :, 1] = right, down
    matrix[:, :, 2] = centre - (right + down) * (CROP / 2)
    return matrix


def frame_to_crop(points: F32, matrix: F32) -> F32:
    """Frame pixels float32 [K, 2] → crop pixels float32 [K, 2] for one crop matrix [2, 3]."""
    return ((points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T).astype(np.float32)
