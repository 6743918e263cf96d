from __future__ import annotations

import av
import numpy as np
import pytest

from mytalk.types import U8
from mytalk.video.picture import CHROMA, Picture, kept_format, planes


def blocks(width: int = 128, height: int = 96) -> U8:
    random = np.random.default_rng(0)
    return np.kron(random.integers(0, 255, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def coded(name: str, full_range: bool = False) -> Picture:
    rgb = av.VideoFrame.from_ndarray(blocks(), format="rgb24")
    frame = rgb.reformat(format=name, dst_colorspace=1, dst_color_range=2 if full_range else 1)
    frame.colorspace, frame.color_range = 1, 2 if full_range else 1
    return Picture(0.0, frame)


@pytest.mark.parametrize("name", sorted(CHROMA))
def test_what_was_not_changed_stays_as_it_was_coded(name: str) -> None:
    picture = coded(name)
    box = picture.aligned((13, 9, 70, 61))
    before = picture.rgb(box)
    after = before.copy()
    after[20:31, 21:30] = (250, 10, 10)
    changed = picture.with_rgb(box, before, after)
    own = planes(picture)
    inside = np.zeros((96, 128), bool)
    inside[box[1] + 20 : box[1] + 31, box[0] + 21 : box[0] + 30] = True
    across, down = CHROMA[name]
    for number, (old, new) in enumerate(zip(own, planes(changed), strict=True)):
        shape = (96, 1, 128, 1) if number == 0 else (96 // down, down, 128 // across, across)
        touched = inside.reshape(shape).any(axis=(1, 3))
        np.testing.assert_array_equal(old[~touched], new[~touched])
        assert (old[touched] != new[touched]).any()
    assert np.abs(changed.rgb(box)[25, 25].astype(int) - (250, 10, 10)).max() <= 3
    for old, again in zip(own, planes(picture), strict=True):
        np.testing.assert_array_equal(old, again)  # the source itself was not written to


@pytest.mark.parametrize("full_range", [False, True])
def test_colours_come_back_in_either_range(full_range: bool) -> None:
    picture = coded("yuv444p", full_range)
    assert np.abs(picture.rgb().astype(int) - blocks()).max() <= 3


def test_a_part_is_what_it_is_in_the_whole() -> None:
    picture = coded("yuv420p")
    part = picture.rgb(picture.aligned((16, 8, 80, 72)))
    inner = slice(4, -4)
    np.testing.assert_array_equal(part[inner, inner], picture.rgb()[8:72, 16:80][inner, inner])
    assert picture.rgb(size=(64, 48)).shape == (48, 64, 3)


def test_boxes_beyond_the_picture_are_cut_or_empty() -> None:
    picture = Picture.from_rgb(blocks())
    assert picture.aligned((-5, -5, 500, 500)) == (0, 0, 128, 96)
    left, _, right, _ = picture.aligned((200, 10, 300, 50))
    assert right <= left
    assert picture.with_rgb(picture.box, picture.rgb(), picture.rgb()) is picture


def test_an_encoder_gets_a_copy_without_the_decoders_wishes() -> None:
    picture = coded("yuv420p")
    picture.frame.pict_type = 1
    copy = picture.copy()
    assert int(copy.pict_type) == 0
    assert (int(copy.colorspace), int(copy.color_range)) == (1, 1)
    np.testing.assert_array_equal(planes(Picture(0, copy))[0], planes(picture)[0])


def test_formats_are_kept_or_become_the_nearest() -> None:
    assert [kept_format(n) for n in ("yuv420p", "yuvj422p", "yuv422p10le")] == [
        "yuv420p",
        "yuvj422p",
        "yuv422p10le",
    ]
    near = {
        "nv12": "yuv420p",
        "p010le": "yuv420p10le",
        "gray": "yuv420p",
        "rgba": "yuv444p",
        "yuva444p12le": "yuv444p10le",
        "gbrp": "yuv444p",
        "rgb24": "yuv444p",
        "yuv411p": "yuv420p",
        "yuv422p12le": "yuv422p10le",
    }
    assert {name: kept_format(name) for name in near} == near
