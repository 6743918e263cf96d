from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mytalk.actors.follow import FaceChoice, find_face, people
from mytalk.errors import BadInput
from mytalk.landmarks.detect import FaceBox
from mytalk.types import F32, U8
from mytalk.video.media import read_at_rate
from mytalk.video.picture import Picture
from mytalk.video.spool import Spool
from tests.small_actor import RATE, TALKING_FACE

pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
pytestmark = pytest.mark.mediapipe


def followed(pictures: list[U8], choice: FaceChoice = "only", aspect: float = 1.0) -> F32:
    with Spool((478, 3)) as spool:
        shown = [Picture(0.0, Picture.from_rgb(rgb).frame, aspect) for rgb in pictures]
        find_face(shown, spool, "it", choice)
        return spool.read(range(len(spool)))


def faces(count: int) -> list[U8]:
    return list(read_at_rate(TALKING_FACE, RATE))[:count]


def on_canvas(face: U8, size: tuple[int, int], at: tuple[int, int], height: int) -> U8:
    """A face's picture scaled to a height, on a grey picture of (width, height), its corner at (x, y)."""
    canvas = Image.new("RGB", size, (90, 90, 90))
    canvas.paste(Image.fromarray(face).resize((height, height), Image.Resampling.LANCZOS), at)
    return np.array(canvas)


def height_of(points: F32) -> float:
    return float(np.ptp(points[:, 1]))


@pytest.mark.parametrize(
    ("size", "height"), [((1920, 1080), 115), ((1280, 720), 1000), ((3840, 2160), 250), ((640, 480), 115)]
)
def test_near_and_far_faces_in_large_and_small_pictures(size: tuple[int, int], height: int) -> None:
    """About 0.7 of the fixture's height is face: 80 to 700 pixels."""
    at = (size[0] // 3, max(0, size[1] // 3) if height < size[1] else -100)
    pictures = [on_canvas(face, size, at, height) for face in faces(4)]
    points = followed(pictures)
    assert np.isfinite(points).all()
    close = followed(faces(4))
    expected = close[:, :, :2] * (height / 256) + at
    error = np.linalg.norm(points[..., :2] - expected, axis=-1).mean()
    assert error < 0.03 * height_of(expected[0])


def test_one_of_two_people() -> None:
    pair = [np.concatenate([face, np.asarray(Image.fromarray(face[:, ::-1]))], axis=1) for face in faces(12)]
    with pytest.raises(BadInput, match=r"2 faces are in view \(\d+, \d+ pixels high.*--face 1 … 2"):
        followed(pair)
    left, right = followed(pair, 1), followed(pair, 2)
    assert left[..., 0].mean() < 256 < right[..., 0].mean()
    assert np.isfinite(left).all()
    with pytest.raises(BadInput, match="no face 3: at most 2"):
        followed(pair, 3)
    smaller = [on_canvas(face, (700, 300), (20, 20), 256) for face in faces(12)]
    for picture, face in zip(smaller, faces(12), strict=True):
        picture[60:220, 420:580] = np.asarray(Image.fromarray(face).resize((160, 160)))
    assert followed(smaller, "largest")[..., 0].mean() < 300


def test_who_was_chosen_stays_chosen_while_others_come_and_go() -> None:
    one = faces(30)
    blank = np.full((256, 256, 3), 90, np.uint8)
    pair = [np.concatenate([f, f[:, ::-1]], axis=1) for f in one]
    for number in range(10, 20):
        pair[number] = np.concatenate([blank, one[number][:, ::-1]], axis=1)
    points = followed(pair, 1)
    seen = np.isfinite(points).all(axis=(1, 2))
    assert seen[:10].all()
    assert not seen[10:20].any()  # the other one is not taken for the first
    assert seen[21:].all()
    assert np.nanmax(points[..., 0]) < 300


def test_pixels_that_are_not_square() -> None:
    narrow = [np.asarray(Image.fromarray(f).resize((128, 256))) for f in faces(3)]
    points, plain = followed(narrow, aspect=2.0), followed(faces(3))
    assert np.abs(points - plain)[..., :2].mean() < 2.0


def test_no_face_is_told() -> None:
    with pytest.raises(BadInput, match="no face was found"):
        followed([np.full((120, 160, 3), 80, np.uint8)] * 3)
    with pytest.raises(BadInput, match="no picture"):
        followed([])


def test_people_are_counted_once_and_passers_by_not_at_all() -> None:
    boxes = [
        FaceBox(300, 10, 400, 110, 0.9),
        FaceBox(10, 10, 110, 110, 0.8),
        FaceBox(20, 20, 100, 100, 0.6),  # the left one again
        FaceBox(200, 10, 220, 30, 0.9),  # somebody far away
    ]
    assert [box.left for box in people(boxes)] == [10, 300]
