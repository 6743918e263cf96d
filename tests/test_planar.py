"""Planar pictures: their layout, their colours, and what an encoder gets of them."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mytalk.types import U8
from mytalk.video.planar import frame_of, full_planes, planar, planes_of, rgb_of, size_of, whiten

ROOT = Path(__file__).resolve().parents[1]


def colours(height: int = 48, width: int = 64) -> U8:
    """Slow colours: half of their resolution is lost by design."""
    y, x = np.mgrid[:height, :width]
    return np.stack([60 + 2 * x, 200 - 2 * y, 40 + x + y], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("rgb", "yuv"),
    [
        ((255, 255, 255), (235, 128, 128)),
        ((0, 0, 0), (16, 128, 128)),
        ((255, 0, 0), (81, 90, 240)),
        ((0, 255, 0), (145, 54, 34)),
        ((0, 0, 255), (41, 240, 110)),
    ],
)
def test_colours_are_bt601_between_16_and_235(rgb: tuple[int, ...], yuv: tuple[int, ...]) -> None:
    picture = np.full((4, 6, 3), rgb, np.uint8)
    for made in (planes_of(planar(picture)), full_planes(picture)):
        assert [int(plane[0, 0]) for plane in made] == pytest.approx(yuv, abs=1)
        assert all((plane == plane[0, 0]).all() for plane in made)


def test_planes_are_views_of_one_array_and_an_odd_size_loses_its_last_line() -> None:
    picture = planar(colours(49, 65))
    assert picture.shape == (72, 64)
    assert size_of(picture) == (64, 48)
    luma, blue, red = planes_of(picture)
    assert (luma.shape, blue.shape, red.shape) == ((48, 64), (24, 32), (24, 32))
    red[:] = 7
    assert (picture[60:] == 7).all()
    assert not (picture[:60] == 7).all()


def test_there_and_back_keeps_colours() -> None:
    assert np.abs(rgb_of(planar(colours())).astype(int) - colours()).max() <= 4


@pytest.mark.parametrize("size", [(46, 62), (48, 62), (48, 64)])
def test_an_encoder_gets_the_same_samples(size: tuple[int, int]) -> None:
    picture = planar(colours(*size))  # also of sizes that are no multiple of what planes are aligned to
    frame = frame_of(picture)
    assert (frame.format.name, frame.height, frame.width) == ("yuv420p", *size)
    np.testing.assert_array_equal(frame.to_ndarray(), picture)


def test_the_flash_is_the_first_quarter() -> None:
    picture = planar(colours())
    whiten(picture)
    rgb = rgb_of(picture)
    assert (rgb[:24, :32] == 255).all()
    assert np.abs(rgb[25:].astype(int) - rgb_of(planar(colours()))[25:]).max() == 0


def test_threads_convert_beside_each_other() -> None:
    pictures = [np.roll(colours(), shift, axis=1) for shift in range(16)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(planar, pictures * 8))
    for one, picture in zip(made, pictures * 8, strict=True):
        np.testing.assert_array_equal(one, planar(picture))


FORKS = """
import os, threading, time
import numpy as np
from mytalk.video.planar import planar
done = threading.Event()
other = threading.Thread(target=lambda: (planar(np.zeros((512, 512, 3), np.uint8)), made.set(), done.wait()))
made = threading.Event()
other.start()
made.wait()
child = os.fork()
if child == 0:
    os._exit(0)
until = time.monotonic() + 20
while not os.waitpid(child, os.WNOHANG)[0]:
    if time.monotonic() > until:
        os.kill(child, 9)
        os._exit(1)
    time.sleep(0.05)
done.set()
"""


def test_a_process_can_be_forked_while_another_thread_has_converted_pictures() -> None:
    assert subprocess.run([sys.executable, "-c", FORKS], check=False, cwd=ROOT, timeout=60).returncode == 0
