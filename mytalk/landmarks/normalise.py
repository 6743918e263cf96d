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
LIGHT_FRAMES, HEAVY_FRAMES = 1.0, 3.0  # smoothing of what moves, and of what rests: sigma
STILL, MOVING = 0.004, 0.012  # canonical units between the two below which it rests, above which it moves
STEADY_REACH = round(3 * HEAVY_FRAMES)  # frames on either side that smoothing looks at
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


def lift(points: F32, layout: Layout) -> F32:
    """Give points without depth the depth of a posed template: float32 [F, K, 2] → [F, K, 3], pixels.

    A weak-perspective pose is fitted to the rigid points of every frame alone, so speech moves nothing but
    its own points' x and y. Raises ``BadInput`` for wrong shapes or non-finite points.
    """
    if points.ndim != 3 or points.shape[1:] != (layout.points, 2) or len(points) == 0:
        raise BadInput(f"points must be [F, {layout.points}, 2], not {points.shape}")
    if not np.isfinite(points).all():
        raise BadInput("points of a frame without a face cannot have a pose")
    shape = layout.template[layout.rigid].astype(np.float64)
    seen = points[:, layout.rigid].astype(np.float64)
    centred = shape - shape.mean(axis=0)
    # Least-squares affine camera [F, 2, 3]; the nearest scaled rotation gives the missing third row.
    camera = np.einsum("fri,rj->fij", seen - seen.mean(axis=1, keepdims=True), np.linalg.pinv(centred).T)
    u, singular, vt = np.linalg.svd(camera, full_matrices=False)
    rows, scale = u @ vt, singular.mean(axis=1)
    away = np.cross(rows[:, 0], rows[:, 1])
    depth = scale[:, None] * (away @ (layout.template - shape.mean(axis=0)).T)
    lifted: F32 = np.concatenate([points, depth[..., None]], axis=2).astype(np.float32)
    return lifted


def rigid_shape(points: F32, layout: Layout, iterations: int = 3) -> npt.NDArray[np.float64]:
    """A person's own rigid upper face, float64 [R, 3] canonical, from frames float32 [F, K, 3], pixels.

    It is estimated from the frames (generalised Procrustes), so that a face unlike the template still gets an
    unbiased pose (``lift`` adds a missing depth). Raises ``BadInput`` for wrong shapes or non-finite points.
    """
    _check_points(points, layout)
    rigid = points[:, layout.rigid].astype(np.float64)
    template = layout.template[layout.rigid].astype(np.float64)
    shape, poses = template, _umeyama(template, rigid)
    for _ in range(iterations):
        own = _apply_inverse(rigid, poses).mean(axis=0)
        shape = _apply(own[None], _umeyama(own, template[None]))[0]
        poses = _umeyama(shape, rigid)
    return np.asarray(shape, np.float64)


def poses_of(points: F32, shape: npt.NDArray[np.float64], layout: Layout) -> Poses:
    """Pose of every frame float32 [F, 478, 3], pixels, of a person with this ``rigid_shape``."""
    _check_points(points, layout)
    return _umeyama(shape, points[:, layout.rigid].astype(np.float64))


def fit_poses(points: F32, layout: Layout, iterations: int = 3) -> Poses:
    """Pose of every frame of one person's clip, float32 [F, 478, 3], pixels; see ``rigid_shape``."""
    return poses_of(points, rigid_shape(points, layout, iterations), layout)


def _check_points(points: F32, layout: Layout) -> None:
    if points.ndim != 3 or points.shape[1:] != (layout.points, 3) or len(points) == 0:
        raise BadInput(f"points must be [F, {layout.points}, 3], not {points.shape}")
    if not np.isfinite(points).all():
        raise BadInput("points of a frame without a face cannot have a pose")


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


def _moving(move: F32) -> F32:
    """Share 0..1 of the light smoothing, from how far (canonical units) light and heavy smoothing differ."""
    share: F32 = np.clip((move - STILL) / (MOVING - STILL), 0, 1).astype(np.float32)
    return share


def steady_points(points: F32) -> F32:
    """Landmarks over time without the detector's jitter: float32 [F, K, 3] canonical, any of them.

    Symmetric in time, so without lag. A point that rests is smoothed heavily, one that moves (an eyelid)
    lightly.
    """
    light, heavy = _smooth(points, LIGHT_FRAMES), _smooth(points, HEAVY_FRAMES)
    share = _moving(np.linalg.norm(light - heavy, axis=-1))[..., None]
    return (share * light + (1 - share) * heavy).astype(np.float32)


def steady_poses(poses: Poses, layout: Layout) -> Poses:
    """``smooth_poses``, heavier where the head rests; symmetric in time, so without lag."""
    light, heavy = smooth_poses(poses, LIGHT_FRAMES), smooth_poses(poses, HEAVY_FRAMES)
    rigid = np.broadcast_to(layout.template[layout.rigid], (len(poses), len(layout.rigid), 3))
    apart = np.linalg.norm(from_canonical(rigid, light) - from_canonical(rigid, heavy), axis=-1)
    share = _moving(apart.max(axis=1) / heavy.scale)
    u, _, vt = np.linalg.svd(
        share[:, None, None] * light.rotation + (1 - share)[:, None, None] * heavy.rotation
    )
    return Poses(
        np.exp(share * np.log(light.scale) + (1 - share) * np.log(heavy.scale)).astype(np.float32),
        (u @ vt).astype(np.float32),
        (share[:, None] * light.translation + (1 - share)[:, None] * heavy.translation).astype(np.float32),
    )


def mouth_opening(canonical: F32, layout: Layout) -> F32:
    """Inner-lip gap in canonical units: float32 [F] from canonical [F, K, 3]."""
    top, bottom = layout.mouth_gap
    gaps: Real = np.linalg.norm(canonical[:, bottom] - canonical[:, top], axis=-1)
    opening: F32 = gaps.mean(axis=-1).astype(np.float32)
    return opening


def rest_face(canonical: F32, layout: Layout, share: float = 0.15) -> F32:
    """Closed-mouth rest face float32 [K, 3]: the mean of the most closed ``share`` of the frames."""
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
