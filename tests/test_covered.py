from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from mytalk.actors.covered import MouthWatch
from mytalk.landmarks.normalise import from_canonical
from mytalk.types import F32, U8
from mytalk.video.picture import Picture
from tests.small_actor import LAYOUT, TALKING_FACE, still_poses, template_face

SIZE, EYES_PX = 320, 70.0
MOUTH = (160, 205)
FRAMES = 50
BEHIND = slice(20, 35)  # frames in which something is in front


def face(shift: float = 0.0, opening: float = 0.0) -> tuple[U8, F32]:
    """A plain drawn face with a mouth, and its landmarks [478, 3]."""
    canonical = template_face(1)
    canonical[0, LAYOUT.mouth_gap[1], 1] += opening
    points = from_canonical(canonical, still_poses(1, EYES_PX, (160 + shift, 130)))[0]
    image = Image.new("RGB", (SIZE, SIZE), (60, 80, 120))
    draw = ImageDraw.Draw(image)
    draw.ellipse((85 + shift, 40, 235 + shift, 290), fill=(190, 140, 115))
    lips = next(contour for contour in LAYOUT.contours if contour.name == "outer lips")
    draw.polygon([(float(x), float(y)) for x, y in points[list(lips.points), :2]], fill=(160, 70, 70))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1)), np.uint8), points


def with_front(
    rgb: U8, colour: tuple[int, int, int], radius: float = 45, centre: tuple[float, float] = MOUTH
) -> U8:
    image = Image.fromarray(rgb)
    x, y = centre
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image, np.uint8)


def watched(shots: Iterable[tuple[U8, F32 | None]], fps: float = 25.0) -> np.ndarray:
    with MouthWatch(LAYOUT) as watch:
        for number, (rgb, points) in enumerate(shots):
            watch.look(Picture.from_rgb(rgb, number / fps), points)
        return watch.covered()


def talking(number: int) -> tuple[U8, F32]:
    return face(6 * np.sin(number / 4), 0.15 * (1 + np.sin(number / 2)))


def test_speech_and_motion_cover_nothing() -> None:
    assert not watched(talking(n) for n in range(FRAMES)).any()


@pytest.mark.parametrize("colour", [(40, 40, 40), (230, 225, 220), (158, 108, 88)])
def test_something_dark_light_or_like_skin_in_front_of_the_mouth(colour: tuple[int, int, int]) -> None:
    shots = [talking(n) for n in range(FRAMES)]
    shots[BEHIND] = [(with_front(rgb, colour), points) for rgb, points in shots[BEHIND]]
    found = watched(shots)
    assert found[BEHIND].all()
    assert found.sum() == BEHIND.stop - BEHIND.start


def test_below_the_chin_is_not_in_front_of_the_mouth() -> None:
    shots = [talking(n) for n in range(FRAMES)]
    shots[BEHIND] = [(with_front(rgb, (30, 30, 30), 30, (160, 290)), p) for rgb, p in shots[BEHIND]]
    assert not watched(shots).any()


@pytest.mark.parametrize("change", [0.6, 1.3])
def test_light_that_changes_covers_nothing(change: float) -> None:
    shots = [talking(n) for n in range(FRAMES)]
    shots[BEHIND] = [(np.clip(rgb * change, 0, 255).astype(np.uint8), p) for rgb, p in shots[BEHIND]]
    assert not watched(shots).any()


def test_another_take_in_other_colours_covers_nothing() -> None:
    shots = [talking(n) for n in range(FRAMES)]
    shots[BEHIND] = [((rgb * (0.5, 0.9, 1.3)).clip(0, 255).astype(np.uint8), p) for rgb, p in shots[BEHIND]]
    assert not watched(shots).any()


def test_a_flicker_is_nothing_and_a_face_lost_behind_a_hand_stays_covered() -> None:
    shots: list[tuple[U8, F32 | None]] = [talking(n) for n in range(FRAMES)]
    shots[5] = (with_front(shots[5][0], (40, 40, 40)), shots[5][1])
    shots[BEHIND] = [(with_front(rgb, (40, 40, 40)), points) for rgb, points in shots[BEHIND]]
    for number in (26, 27, 28):
        shots[number] = (shots[number][0], None)
    found = watched(shots)
    assert found[BEHIND].all()
    assert found.sum() == BEHIND.stop - BEHIND.start


def test_it_counts_time_and_not_pictures() -> None:
    """At 100 pictures a second, five of them are no longer than a flicker."""
    shots = [talking(n) for n in range(FRAMES)]
    shots[20:25] = [(with_front(rgb, (40, 40, 40)), points) for rgb, points in shots[20:25]]
    assert not watched(shots, 100.0).any()
    assert watched(shots, 25.0).sum() == 5


def test_few_pictures_no_face_and_a_face_outside_the_picture() -> None:
    assert watched([]).shape == (0,)
    assert not watched([(face()[0], None)] * 3).any()
    assert not watched([talking(0)]).any()
    rgb, points = face()
    outside = points + np.array([1000, 0, 0], np.float32)
    assert not watched([(rgb, points), (rgb, outside), (rgb, points)]).any()


def test_anamorphic_pictures_are_looked_at_in_the_right_place() -> None:
    narrow = []
    with MouthWatch(LAYOUT) as watch:
        for number in range(FRAMES):
            rgb, points = talking(number)
            if BEHIND.start <= number < BEHIND.stop:
                rgb = with_front(rgb, (40, 40, 40))
            half = np.asarray(Image.fromarray(rgb).resize((SIZE // 2, SIZE)), np.uint8)
            narrow.append(Picture(number / 25, Picture.from_rgb(half).frame, 2.0))
            watch.look(narrow[-1], points)
        found = watch.covered()
    assert found[BEHIND].all()
    assert found.sum() == BEHIND.stop - BEHIND.start


def test_the_working_file_leaves_nothing_behind(tmp_path: Path) -> None:
    with MouthWatch(LAYOUT, tmp_path) as watch:
        watch.look(Picture.from_rgb(face()[0]), face()[1])
        watch.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.mediapipe
def test_the_fixture_covered_by_a_hand_and_as_it_is() -> None:
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    from mytalk.actors.follow import find_face
    from mytalk.video.media import read_frames
    from mytalk.video.spool import Spool
    from tests.occluder import hand_over

    plain = [picture.rgb() for picture in islice(read_frames(TALKING_FACE), 40)]
    for shown in (plain, hand_over(plain, range(16, 28))):
        with Spool((478, 3)) as spool, MouthWatch(LAYOUT) as watch:
            find_face(
                (Picture.from_rgb(rgb, n / 25) for n, rgb in enumerate(shown)),
                spool,
                "it",
                on_picture=watch.look,
            )
            found = watch.covered()
        assert found.sum() == (0 if shown is plain else 12)
        assert shown is plain or found[16:28].all()
