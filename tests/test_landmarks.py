"""Layout, normalisation, drawing: what the landmark package promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mytalk.errors import BadInput
from mytalk.landmarks.draw import GAIN, SIGMA_PX, _samplers, draw_landmarks
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import (
    CROP,
    Poses,
    crop_matrices,
    fit_poses,
    frame_to_crop,
    from_canonical,
    lift,
    mouth_opening,
    rest_face,
    smooth_poses,
    to_canonical,
    upper_displacement,
)

LAYOUT = load_layout()


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype(np.float32)


def poses(frames: int, seed: int = 0) -> Poses:
    random = np.random.default_rng(seed)
    return Poses(
        random.uniform(60, 160, frames).astype(np.float32),
        np.stack([rotation(*random.uniform(-0.4, 0.4, 3)) for _ in range(frames)]),
        random.uniform(100, 400, (frames, 3)).astype(np.float32),
    )


def talking_face(frames: int) -> np.ndarray:
    """Canonical faces whose lower lip and chin drop by up to 0.3."""
    faces = np.repeat(LAYOUT.template[None], frames, axis=0)
    drop = 0.15 * (1 - np.cos(np.linspace(0, 6 * np.pi, frames)))
    moving = LAYOUT.compact[LAYOUT.template[LAYOUT.compact, 1] > 1.14]
    faces[:, moving, 1] += drop[:, None].astype(np.float32)
    return faces


def test_index_sets_do_not_overlap_and_stay_inside():
    sets = [LAYOUT.compact, LAYOUT.upper, LAYOUT.rigid]
    for indices in sets:
        assert len(set(indices.tolist())) == len(indices)
        assert indices.min() >= 0
        assert indices.max() < LAYOUT.points
    assert not set(LAYOUT.compact.tolist()) & set(LAYOUT.upper.tolist())
    assert not set(LAYOUT.compact.tolist()) & set(LAYOUT.rigid.tolist())
    assert set(LAYOUT.lips.tolist()) <= set(LAYOUT.compact.tolist())


def test_unknown_layout_is_refused():
    with pytest.raises(BadInput, match="unknown landmark layout"):
        load_layout("dense70")


def test_pose_of_a_known_motion_is_found_whatever_the_mouth_does():
    true = poses(20)
    points = from_canonical(talking_face(20), true)
    found = fit_poses(points, LAYOUT)
    np.testing.assert_allclose(found.scale, true.scale, rtol=1e-3)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=2e-3)
    back = from_canonical(to_canonical(points, found), found)
    np.testing.assert_allclose(back, points, atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.0, 0.6))
def test_speech_does_not_move_the_frame_it_is_measured_in(drop):
    still, true = np.repeat(LAYOUT.template[None], 3, axis=0), poses(3)
    talking = still.copy()
    talking[:, LAYOUT.compact, 1] += np.float32(drop)
    first, second = (fit_poses(from_canonical(faces, true), LAYOUT) for faces in (still, talking))
    np.testing.assert_array_equal(first.rotation, second.rotation)
    np.testing.assert_array_equal(first.translation, second.translation)


def test_points_without_a_face_are_refused():
    points = np.full((3, 478, 3), np.nan, np.float32)
    with pytest.raises(BadInput):
        fit_poses(points, LAYOUT)
    with pytest.raises(BadInput, match="must be"):
        fit_poses(points[:, :400], LAYOUT)


def test_smoothing_takes_jitter_away_and_keeps_rotations_rotations():
    random = np.random.default_rng(1)
    still = Poses(
        np.full(60, 100, np.float32),
        np.repeat(rotation(0.1, 0, 0)[None], 60, 0),
        np.zeros((60, 3), np.float32),
    )
    shaken = Poses(
        still.scale, still.rotation, still.translation + random.normal(0, 1, (60, 3)).astype(np.float32)
    )
    smooth = smooth_poses(shaken, 2.0)
    assert smooth.translation.std() < 0.6 * shaken.translation.std()
    np.testing.assert_allclose(np.linalg.det(smooth.rotation), 1, atol=1e-5)
    np.testing.assert_allclose(smooth.scale, 100, rtol=1e-5)


def test_rest_face_is_the_closed_one():
    faces = talking_face(90)
    rest = rest_face(faces, LAYOUT)
    gap = mouth_opening(faces, LAYOUT)
    assert mouth_opening(rest[None], LAYOUT)[0] < np.percentile(gap, 20)
    assert np.abs(upper_displacement(faces, rest, LAYOUT)).max() < 1e-6


def test_crop_shows_the_mouth_upright_at_its_place_for_any_roll_and_scale():
    true = Poses(
        np.array([80, 200], np.float32),
        np.stack([rotation(0, 0, 0.5), rotation(0, 0, -0.3)]),
        np.array([[200, 150, 0], [300, 250, 0]], np.float32),
    )
    points = from_canonical(np.repeat(LAYOUT.template[None], 2, axis=0), true)
    crops = [frame_to_crop(p[:, :2], m) for p, m in zip(points, crop_matrices(true), strict=True)]
    np.testing.assert_allclose(crops[0], crops[1], atol=1e-2)
    left, right = crops[0][61], crops[0][291]
    assert abs(left[1] - right[1]) < 2
    assert 40 < left[0] < right[0] < CROP - 40


def test_drawing_is_sub_pixel():
    """Half a pixel to the right moves every channel's centre of mass by half a pixel."""
    points = frame_to_crop(
        LAYOUT.template[:, :2], np.array([[2.4 / 256, 0, -1.2], [0, 2.4 / 256, -0.2]], np.float32)
    )
    inside = np.array([0.0, -6.0], np.float32)
    before, after = (
        draw_landmarks(points + inside, LAYOUT),
        draw_landmarks(points + inside + [0.5, 0.0], LAYOUT),
    )
    columns = np.arange(CROP)
    for channel in (0, 1):
        centres = [
            (image[channel].sum(0) * columns).sum() / image[channel].sum() for image in (before, after)
        ]
        assert centres[1] - centres[0] == pytest.approx(0.5, abs=0.02)
    assert before.shape == (3, CROP, CROP)
    assert before.min() >= 0
    assert before.max() <= 1


def test_points_outside_the_crop_draw_nothing():
    assert draw_landmarks(np.full((478, 2), 1e4, np.float32), LAYOUT).max() == 0


DENSE = load_layout("dense669")


def test_dense_layout_is_the_papers_split():
    assert DENSE.points == 669
    assert DENSE.compact.tolist() == list(range(411))
    assert DENSE.upper.tolist() == list(range(411, 669))
    assert set(DENSE.lips.tolist()) <= set(DENSE.compact.tolist())
    assert not set(DENSE.rigid.tolist()) & set(DENSE.compact.tolist())
    assert DENSE.coordinates == 2
    assert all(max(contour.points) < 669 for contour in DENSE.contours)
    assert DENSE.template.shape == (669, 3)


def test_both_templates_stand_in_the_same_canonical_frame():
    """Mouth corners, chin and lips lie where MediaPipe's do, so mask and crop fit both layouts."""
    for dense, mesh in ((DENSE.lips, LAYOUT.lips), (DENSE.mouth_gap, LAYOUT.mouth_gap)):
        a, b = DENSE.template[dense.reshape(-1)], LAYOUT.template[mesh.reshape(-1)]
        np.testing.assert_allclose(a.mean(axis=0)[:2], b.mean(axis=0)[:2], atol=0.03)


def test_points_without_depth_are_lifted_and_get_their_pose():
    true = poses(12)
    faces = np.repeat(DENSE.template[None], 12, axis=0)
    points = from_canonical(faces, true)
    lifted = lift(points[..., :2], DENSE)
    np.testing.assert_array_equal(lifted[..., :2], points[..., :2])
    found = fit_poses(lifted, DENSE)
    np.testing.assert_allclose(found.scale, true.scale, rtol=1e-3)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=3e-3)
    np.testing.assert_allclose(to_canonical(lifted, found), faces, atol=5e-3)


def test_speech_moves_nothing_but_its_own_points_of_a_lifted_face():
    still = from_canonical(np.repeat(DENSE.template[None], 3, axis=0), poses(3))[..., :2]
    talking = still.copy()
    talking[:, DENSE.compact, 1] += 20
    first, second = lift(still, DENSE), lift(talking, DENSE)
    np.testing.assert_array_equal(first[..., 2], second[..., 2])
    np.testing.assert_array_equal(first[:, DENSE.upper], second[:, DENSE.upper])


def test_lifting_refuses_what_has_no_pose():
    with pytest.raises(BadInput, match="must be"):
        lift(np.zeros((2, 669, 3), np.float32), DENSE)
    with pytest.raises(BadInput, match="without a face"):
        lift(np.full((2, 669, 2), np.nan, np.float32), DENSE)


@pytest.mark.parametrize("layout", [LAYOUT, DENSE], ids=["mediapipe478", "dense669"])
def test_a_drawing_shows_the_same_at_any_size(layout):
    points = frame_to_crop(layout.template[:, :2], crop_matrices(unit_pose())[0])
    small, large = draw_landmarks(points, layout), draw_landmarks(points, layout, 512)
    assert small.shape == (3, 256, 256)
    assert large.shape == (3, 512, 512)
    assert all(channel.max() > 0.5 for channel in small)
    halved = large.reshape(3, 256, 2, 256, 2).mean(axis=(2, 4))
    assert np.abs(halved - small).max() < 0.1


def unit_pose() -> Poses:
    return Poses(np.ones(1, np.float32), np.eye(3, dtype=np.float32)[None], np.zeros((1, 3), np.float32))


def test_drawing_is_the_sum_of_the_samples_as_gaussians() -> None:
    """What it does, written plainly: the form in use leaves out what is too far away to be seen."""
    points = (LAYOUT.template[:, :2] * 100 + 128).astype(np.float32)
    centres = np.arange(256, dtype=np.float32) + 0.5
    for channel, sampler in enumerate(_samplers(LAYOUT)):
        samples = np.array(
            [
                points[a] * (1 - share) + points[b] * share
                for a, b, share in zip(sampler.begin, sampler.end, sampler.share[:, 0], strict=True)
            ]
        )
        profiles = np.exp(-0.5 * np.square((centres - samples[:, :, None]) / SIGMA_PX)).astype(np.float32)
        plain = (1.0 - np.exp(-GAIN * (profiles[:, 1].T @ profiles[:, 0]))).astype(np.float32)
        np.testing.assert_allclose(draw_landmarks(points, LAYOUT)[channel], plain, atol=2e-5)


@pytest.mark.parametrize("shift", [(-150, 0), (150, 0), (0, -150), (0, 150), (130, 130)])
def test_a_face_that_leaves_the_crop_is_drawn_where_it_is_in_it(shift) -> None:
    points = (LAYOUT.template[:, :2] * 100 + 128).astype(np.float32)
    middle = draw_landmarks(points / 4 + 96, LAYOUT, 1024)  # all of it in the crop, four times as fine
    moved = draw_landmarks((points + np.array(shift)) / 4 + 96, LAYOUT, 1024)
    x, y = shift
    own = moved[:, max(0, y) : 1024 + min(0, y), max(0, x) : 1024 + min(0, x)]
    same = middle[:, max(0, -y) : 1024 + min(0, -y), max(0, -x) : 1024 + min(0, -x)]
    np.testing.assert_allclose(own, same, atol=1e-3)
