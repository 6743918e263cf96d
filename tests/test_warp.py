from __future__ import annotations

import numpy as np

from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import Real
from mytalk.landmarks.warp import (
    FLOW_COLUMNS,
    FLOW_ROWS,
    FLOW_STRIDE,
    SOFTNESS,
    _control_points,
    fine_windows,
    finer,
    flow_nodes,
    flow_shape,
    reference_flows,
)
from mytalk.types import F32

LAYOUT = load_layout()


def face() -> F32:
    """The mean face in crop pixels, float32 [K, 2]."""
    return ((LAYOUT.template[:, :2] - (0.0, 1.0)) * (256 / 2.4) + 128).astype(np.float32)


def at(flow: F32, point: F32) -> F32:
    """The flow at the node nearest to a point of the crop."""
    column, row = (int(v // FLOW_STRIDE) for v in point)
    found: F32 = flow[:, row - FLOW_ROWS[0], column - FLOW_COLUMNS[0]]
    return found


def test_the_same_face_does_not_move() -> None:
    flows = reference_flows(face(), np.stack([face()] * 3), LAYOUT)
    assert flows.shape == (3, 2, *flow_shape())
    assert flows.dtype == np.float32
    assert np.abs(flows).max() < 1e-3


def test_a_turn_and_a_shift_are_found_everywhere() -> None:
    turn = np.array([[1.05, 0.1], [-0.1, 0.95]], np.float32)
    moved = face() @ turn.T + np.array([3.0, -2.0])
    flow = reference_flows(face(), moved[None].astype(np.float32), LAYOUT)[0]
    rows, columns = np.mgrid[slice(*FLOW_ROWS), slice(*FLOW_COLUMNS)]
    nodes = (np.stack([columns, rows], axis=-1) + 0.5) * FLOW_STRIDE
    np.testing.assert_allclose(
        flow.transpose(1, 2, 0), nodes @ turn.T + np.array([3.0, -2.0]) - nodes, atol=0.05
    )


def test_an_open_mouth_is_found_below_a_closed_one() -> None:
    opened = face()
    lower = [17, 14, 84, 314, 87, 317]
    opened[lower, 1] += 15.0
    flow = reference_flows(face(), opened[None], LAYOUT)[0]
    assert at(flow, face()[17])[1] > 8
    assert abs(at(flow, face()[2])[1]) < 2  # the nose stays
    assert np.abs(flow).max() < 20  # nothing overshoots


def test_each_reference_has_its_own_flow() -> None:
    both = (face() + np.array([[[4.0, 0.0]], [[0.0, -6.0]]])).astype(np.float32)
    flows = reference_flows(face(), both, LAYOUT)
    np.testing.assert_allclose(flows[0], np.broadcast_to([[[4.0]], [[0.0]]], flows[0].shape), atol=1e-2)
    np.testing.assert_allclose(flows[1], np.broadcast_to([[[0.0]], [[-6.0]]], flows[1].shape), atol=1e-2)


def test_flows_are_radial_basis_functions_in_full_precision() -> None:
    """What they are, written plainly in float64; near landmarks must not lose digits."""
    random = np.random.default_rng(1)
    reference = face() + random.normal(0, 4, face().shape).astype(np.float32)
    control = _control_points(LAYOUT)
    points, moved = (each[control].astype(np.float64) / 256 for each in (face(), reference))

    def apart(a: Real, b: Real) -> Real:
        return np.linalg.norm(a[:, None] - b, axis=-1)

    def affine(a: Real) -> Real:
        return np.concatenate([np.ones((len(a), 1)), a], axis=1)

    kernel = apart(points, points) - np.eye(len(points)) * SOFTNESS / 256
    system = np.block([[kernel, affine(points)], [affine(points).T, np.zeros((3, 3))]])
    weights = np.linalg.solve(system, np.concatenate([(moved - points) * 256, np.zeros((3, 2))]))
    nodes = flow_nodes() / 256.0
    plain = apart(nodes, points) @ weights[:-3] + affine(nodes) @ weights[-3:]
    found = reference_flows(face(), reference[None], LAYOUT)[0]
    np.testing.assert_allclose(found.reshape(2, -1).T, plain, atol=5e-3)


def test_fine_windows_hold_the_pixels_of_the_crop_and_smooth_ones_between() -> None:
    rows, columns = np.mgrid[0:256, 0:256]
    ramp = np.stack([rows * 0.9, columns * 0.9, 128 + 0 * rows], axis=-1).astype(np.uint8)[None]
    fine = fine_windows(ramp)
    assert fine.shape == (1, 3, 3 * 160, 3 * 176)
    assert fine.dtype == np.uint8
    own = fine[0, :, 1::3, 1::3]  # the middle of every three lies on a pixel's centre
    np.testing.assert_array_equal(own, ramp[0, 96:256, 40:216].transpose(2, 0, 1))
    assert np.diff(fine[0, 0, 30:-30].astype(int), axis=0).max() <= 2  # no ringing on a slope


def test_fine_samples_of_a_constant_are_that_constant() -> None:
    matrix = finer((3, 9), 12, 4)
    assert matrix.shape == (24, 12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
