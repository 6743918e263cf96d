"""Cropping and pasting back: exact outside the mask, faithful inside."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import Poses, crop_matrices, frame_to_crop, from_canonical
from mytalk.render.compose import (
    CRISPNESS,
    crop,
    face_outline,
    hidden_mask,
    overlay,
    paste,
    paste_box,
    paste_mask,
    patch,
)
from mytalk.video.planar import planar, planes_of


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, 128 + 60 * np.sin(x / 25)], axis=-1).astype(np.uint8)


def matrix(scale: float, angle: float, left: float, top: float) -> np.ndarray:
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    return np.array([[c, -s, left], [s, c, top]], np.float32)


def test_masks_agree_and_stay_inside_the_crop():
    hidden, weight = hidden_mask(), paste_mask()
    assert set(np.unique(hidden)) == {0.0, 1.0}
    assert weight[hidden == 0].max() == 0
    assert weight.max() == 255
    assert hidden[:, 0].max() == hidden[0].max() == 0


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5, 3.2])
def test_paste_leaves_every_pixel_outside_the_mask_alone(scale):
    frame = picture(480, 640)
    place = matrix(scale, 0.2, 60.0, 20.0)
    out = paste(frame, np.zeros((256, 256, 3), np.uint8), place)
    y, x = np.mgrid[:480, :640] + 0.5
    back = np.linalg.inv(np.vstack([place, (0, 0, 1)]))
    u, v = (np.floor(back[i, 0] * x + back[i, 1] * y + back[i, 2]).astype(int) for i in range(2))
    near = np.zeros((480, 640), bool)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            a, b = u + dx, v + dy
            inside = (a >= 0) & (a < 256) & (b >= 0) & (b < 256)
            near[inside] |= hidden_mask()[b[inside], a[inside]] > 0
    assert (out[~near] == frame[~near]).all()
    assert (out != frame).any()
    assert (frame == picture(480, 640)).all()


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.0), (1.5, 0.0), (2.0, 0.3), (0.6, -0.2)])
def test_a_crop_pasted_back_where_it_came_from_changes_next_to_nothing(scale, angle):
    frame = picture(700, 900)
    place = matrix(scale, angle, 200.0, 60.0)
    out = paste(frame, crop(frame, place), place)
    assert np.abs(out.astype(int) - frame).max() <= 6


def test_beyond_the_frame_its_edge_goes_on():
    frame = np.full((200, 200, 3), 90, np.uint8)
    frame[190:] = 200
    out = crop(frame, matrix(1, 0, -30, 20))
    assert (out[:160] == 90).all()
    assert (out[176:, :] == 200).all()
    inside = crop(picture(480, 640), matrix(1.3, 0.1, 60, 20))
    np.testing.assert_array_equal(
        inside, crop(np.pad(picture(480, 640), ((0, 9), (0, 9), (0, 0))), matrix(1.3, 0.1, 60, 20))
    )


def test_a_face_half_out_of_the_frame_is_no_error():
    frame = picture(200, 200)
    for place in (matrix(1, 0, -150, -150), matrix(1, 0, 120, 100), matrix(1, 0, 5000, 5000)):
        assert paste(frame, crop(frame, place), place).shape == frame.shape


def test_wrong_pictures_are_refused():
    with pytest.raises(BadInput):
        crop(np.zeros((10, 10), np.uint8), matrix(1, 0, 0, 0))
    with pytest.raises(BadInput):
        paste(np.zeros((10, 10, 3), np.float32), np.zeros((256, 256, 3), np.uint8), matrix(1, 0, 0, 0))


def test_the_paste_box_holds_all_that_paste_looks_at() -> None:
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 255, (300, 280, 3), np.uint8)
    face = rng.integers(0, 255, (256, 256, 3), np.uint8)
    inside = np.zeros_like(face)
    inside[paste_box()] = face[paste_box()]
    turned = np.array([[0.9, 0.2, 10.3], [-0.2, 0.9, 40.7]], np.float32)
    np.testing.assert_array_equal(paste(frame, inside, turned), paste(frame, face, turned))
    assert inside.any(axis=2).mean() < 0.5


def sharpened(face: np.ndarray) -> np.ndarray:
    """Unsharp masking by a Gaussian of one pixel, three pixels wide; the outermost pixels stay."""
    across = np.exp([-0.5, 0, -0.5])
    weights = np.outer(across, across) / across.sum() ** 2
    padded = np.pad(face.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = sum(weights[i, j] * padded[i : i + 256, j : j + 256] for i in range(3) for j in range(3))
    out = np.clip(np.round(face + CRISPNESS * (face - blurred)), 0, 255).astype(np.uint8)
    edge = np.ones((256, 256), bool)
    edge[1:-1, 1:-1] = False
    out[edge] = face[edge]
    return out


def test_edges_of_what_is_pasted_get_contrast_back_and_even_areas_stay_as_they_are() -> None:
    face = np.full((256, 256, 3), 80, np.uint8)
    face[170:] = 120
    frame, place = np.full((256, 256, 3), 80, np.uint8), matrix(1, 0, 0, 0)
    column = paste(frame, face, place)[:, 128, 0].astype(int)
    assert column[169] < 75
    assert column[170] > 125
    assert set(column[140:168]) == {80}
    assert set(column[172:200]) == {120}
    where = patch((256, 256), place)
    assert where is not None
    luma = planes_of(overlay(planar(frame), face, where))[0][:, 128].astype(int)
    assert luma[170] - luma[169] > luma[180] - luma[160] + 8


def test_paste_is_one_resampling_of_the_sharpened_crop_with_its_weight() -> None:
    """What it does, written plainly: the quick form in use gives the same bytes."""
    rng = np.random.default_rng(2)
    frame = rng.integers(0, 255, (300, 280, 3), np.uint8)
    face = rng.integers(0, 255, (256, 256, 3), np.uint8)
    place = matrix(0.9, 0.2, 30.3, 10.7)
    for strength in (1.0, 0.4):
        weight = paste_mask() if strength == 1 else (paste_mask() * strength).astype(np.uint8)
        back = np.linalg.inv(np.vstack([place.astype(np.float64), (0, 0, 1)]))
        layer = Image.fromarray(np.dstack([sharpened(face), weight])).transform(
            (280, 300), Image.Transform.AFFINE, tuple(back[:2].ravel()), Image.Resampling.BILINEAR
        )
        whole = Image.fromarray(frame)
        whole.paste(layer.convert("RGB"), (0, 0), layer.getchannel("A"))
        out = paste(frame, face, place, strength)
        # where it begins to sample moves the positions by rounding only
        assert np.abs(out.astype(int) - np.asarray(whole)).max() <= 1


def landmarks(centre: float, half_width: float, chin: float) -> np.ndarray:
    """Landmarks of a face whose jaw is half an ellipse, from ear to ear at row 90, and a square above."""
    angle = np.linspace(0, np.pi, 101)
    jaw = np.stack([centre + half_width * np.cos(angle), 90 + (chin - 90) * np.sin(angle)], axis=-1)
    top = [(centre - half_width, -20), (centre + half_width, -20)]
    return np.concatenate([jaw, top, np.full((200, 2), (centre, 100))]).astype(np.float32)


def test_the_mask_ends_with_the_face() -> None:
    """Hair beside the jaw and the neck below stay as they were filmed, to the last bit."""
    upright = matrix(1, 0, 0, 0)
    frame, made = np.zeros((256, 256, 3), np.uint8), np.full((256, 256, 3), 200, np.uint8)
    outline = face_outline(landmarks(128, 60, 180))
    whole, part = paste(frame, made, upright), paste(frame, made, upright, outline=outline)
    rows, columns = np.mgrid[:256, :256] + 0.5
    inside = (((columns - 128) / 60) ** 2 + ((rows - 90) / 90) ** 2 < 0.97) | (
        (rows < 90) & (abs(columns - 128) < 59)
    )
    np.testing.assert_array_equal(part[inside], whole[inside])
    beyond = (((columns - 128) / 68) ** 2 + ((rows - 90) / 98) ** 2 > 1.03) & (rows > 90)
    assert whole[beyond].any()
    assert not part[beyond].any()


def test_a_dropped_jaw_takes_the_mask_along() -> None:
    upright, outline = matrix(1, 0, 0, 0), face_outline(landmarks(128, 60, 170))
    frame, made = np.zeros((256, 256, 3), np.uint8), np.full((256, 256, 3), 200, np.uint8)
    whole = paste(frame, made, upright)[:, 128, 0]
    filmed, lower, higher = (
        paste(frame, made, upright, outline=outline, drop_px=drop)[:, 128, 0] for drop in (0, 30, -30)
    )
    assert not filmed[180:].any()
    np.testing.assert_array_equal(lower[:195], whole[:195])
    np.testing.assert_array_equal(higher, filmed)


@pytest.mark.parametrize("roll_deg", [0, 90, 180, -90])
def test_planes_of_a_face_that_lies_on_its_side_or_stands_on_its_head_are_pasted_like_rgb(roll_deg) -> None:
    frame, made = np.zeros((512, 512, 3), np.uint8), np.full((256, 256, 3), 200, np.uint8)
    place = matrix(1, np.radians(roll_deg), 0, 0)
    place[:, 2] = 256 - place[:, :2] @ (128, 128)
    ends = face_outline(landmarks(128, 60, 170))
    where = patch((512, 512), place, ends)
    assert where is not None
    for drop_px in (0.0, 30.0):
        expected = planar(paste(frame, made, place, outline=ends, drop_px=drop_px))
        assert psnr(overlay(planar(frame), made, where, drop_px), expected) > 38


@pytest.mark.parametrize("turn_deg", [0, 20, -35, 45])
@pytest.mark.parametrize("nod_deg", [-20, 0, 20])
def test_no_lip_of_a_turned_face_is_left_as_filmed(turn_deg: float, nod_deg: float) -> None:
    layout = load_layout()
    turn, nod = np.radians(turn_deg), np.radians(nod_deg)
    across = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    down = np.array([[1, 0, 0], [0, np.cos(nod), -np.sin(nod)], [0, np.sin(nod), np.cos(nod)]])
    rotation = (across @ down).astype(np.float32)[None]
    poses = Poses(np.full(1, 100, np.float32), rotation, np.full((1, 3), 200, np.float32))
    place = crop_matrices(poses)[0]
    points = frame_to_crop(from_canonical(layout.template[None], poses)[0, :, :2], place)
    black, white = np.zeros((256, 256, 3), np.uint8), np.full((256, 256, 3), 255, np.uint8)
    whole, part = (
        paste(black, white, matrix(1, 0, 0, 0), outline=which)[..., 0]
        for which in (None, face_outline(points))
    )
    columns, rows = np.floor(points[layout.lips]).astype(int).T
    np.testing.assert_array_equal(part[rows, columns], whole[rows, columns])
    columns, rows = np.floor(points[layout.compact]).astype(int).clip(0, 255).T
    assert (part[rows, columns] >= 0.4 * whole[rows, columns]).all(), "half of it, at a corner of the outline"
    assert part.astype(int).sum() < 0.97 * whole.astype(int).sum(), "what is beside the face stays"


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.37, 2.4])
@pytest.mark.parametrize("at", [(60.0, 20.0), (-150.0, -90.0), (333.0, 251.0)])
def test_planes_are_pasted_like_rgb(scale, at):
    """The colours of a face on another ground, at the edges of an odd picture, too."""
    frame = np.ascontiguousarray(picture(481, 643)[:, :, ::-1])
    made = crop(picture(480, 640), matrix(1.3, 0.1, 60, 20))
    place = matrix(scale, 0.1, *at)
    ends = face_outline(landmarks(128, 60, 180))
    for outline, drop_px in ((None, 0.0), (ends, 0.0), (ends, 14.0)):
        where = patch((642, 480), place, outline)
        expected = planar(paste(frame, made, place, outline=outline, drop_px=drop_px))
        if where is None:
            np.testing.assert_array_equal(planar(frame), expected)
            continue
        before = planar(frame)
        out = overlay(before, made, where, drop_px)
        np.testing.assert_array_equal(before, planar(frame))
        left, top, right, bottom = where.box
        for plane, wanted, step in zip(planes_of(out), planes_of(expected), (1, 2, 2), strict=True):
            part = (slice(top // step, bottom // step), slice(left // step, right // step))
            assert psnr(plane[part], wanted[part]) > (
                42 if outline is None else 38
            )  # drops are of even pixels
        rows, columns = np.nonzero(where.weights(drop_px)[0] == 0)
        same = planes_of(before)[0][top:bottom, left:right]
        np.testing.assert_array_equal(
            planes_of(out)[0][top:bottom, left:right][rows, columns], same[rows, columns]
        )


def test_a_mask_outside_of_a_picture_has_no_patch() -> None:
    assert patch((200, 200), matrix(1, 0, 5000, 5000)) is None
    assert patch((200, 200), matrix(1, 0, -5000, 0)) is None


def test_where_all_of_the_crop_shows_it_is_all_that_shows() -> None:
    frame = planar(np.full((300, 300, 3), 30, np.uint8))
    place = patch((300, 300), matrix(1, 0, 20, 20))
    assert place is not None
    out = overlay(frame, np.full((256, 256, 3), 200, np.uint8), place)
    left, top, right, bottom = place.box
    full, grey = place.weights(0.0)[0] == 255, planar(np.full((2, 2, 3), 200, np.uint8))[0, 0]
    assert full.mean() > 0.3
    assert (planes_of(out)[0][top:bottom, left:right][full] == grey).all()
