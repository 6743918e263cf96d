"""Outgoing video: every picture decodes at once, key pictures on request, the bit rate, shared reels, VP8."""

from __future__ import annotations

from collections.abc import Iterator

import aiortc.codecs.h264
import av
import numpy as np
import pytest
from aiortc.codecs.h264 import h264_depayload
from aiortc.codecs.vpx import vp8_depayload

from mytalk.types import U8
from mytalk.video.planar import planar
from server.rtc import video_encoder
from server.rtc.idle_reel import KEY_EVERY, IdleReel
from server.rtc.video_encoder import (
    VP8,
    H264Encoder,
    OutPicture,
    ReelPart,
    Vp8Encoder,
    choose,
    encoder_for,
    preferred_codecs,
    works,
)

SIZE = (96, 128)


@pytest.fixture(autouse=True)
def bit_rates() -> Iterator[None]:
    names = ("DEFAULT_BITRATE", "MIN_BITRATE", "MAX_BITRATE")
    saved = {name: getattr(aiortc.codecs.h264, name) for name in names}
    for name, value in zip(names, (400_000, 100_000, 1_600_000), strict=True):
        setattr(aiortc.codecs.h264, name, value)
    yield
    for name, value in saved.items():
        setattr(aiortc.codecs.h264, name, value)


def picture(number: int, size: tuple[int, int] = SIZE) -> U8:
    """Stripes that move, over slow colours (half of the colour resolution is lost by design)."""
    y, x = np.mgrid[: size[0], : size[1]]
    wave = 60 * np.sin((2 * x + 3 * y + 9 * number) / 9)
    return (
        np.stack([wave + 190 - x * 0.8, wave + 120, wave + 70 + y * 0.8], axis=-1)
        .clip(0, 255)
        .astype(np.uint8)
    )


def out(rgb: U8, slot: int, part: ReelPart | None = None) -> OutPicture:
    return OutPicture(planar(rgb), slot, part)


class Viewer:
    """Decodes what an encoder sends, as a browser would."""

    def __init__(self, codec: str = "h264") -> None:
        self._codec = av.CodecContext.create(codec, "r")
        self._strip = h264_depayload if codec == "h264" else vp8_depayload

    def see(self, payloads: list[bytes]) -> U8:
        frames = self._codec.decode(av.Packet(b"".join(map(self._strip, payloads))))
        assert len(frames) == 1, "a picture must come out at once, not with the next one"
        return frames[0].to_ndarray(format="rgb24")


def close(seen: U8, sent: U8) -> bool:
    return seen.shape == sent.shape and float(np.abs(seen.astype(int) - sent).mean()) < 6


def is_key(payloads: list[bytes]) -> bool:
    """Whether there is an IDR slice (NAL unit type 5) in H.264."""
    units = b"".join(map(h264_depayload, payloads)).split(b"\x00\x00\x01")
    return any(unit[0] & 0x1F == 5 for unit in units if unit)


def test_every_picture_comes_out_at_once_with_its_colours_and_time() -> None:
    encoder, viewer = H264Encoder("libx264"), Viewer()
    for slot in range(8):
        payloads, timestamp = encoder.encode(out(picture(slot), slot))
        assert timestamp == 3600 * slot
        assert max(map(len, payloads)) <= 1300
        assert is_key(payloads) == (slot == 0)
        assert close(viewer.see(payloads), picture(slot))


def test_a_picture_loss_is_answered_with_a_key_picture() -> None:
    encoder = H264Encoder("libx264")
    sent = [encoder.encode(out(picture(n), n), force_keyframe=n == 3)[0] for n in range(6)]
    assert [is_key(payloads) for payloads in sent] == [True, False, False, True, False, False]
    latecomer = Viewer()
    assert [close(latecomer.see(sent[n]), picture(n)) for n in (3, 4, 5)] == [True] * 3


def test_the_bit_rate_follows_the_receiver_and_small_steps_are_ignored() -> None:
    encoder = H264Encoder("libx264")
    noise = np.random.default_rng(0).integers(0, 255, (60, 128, 160, 3), dtype=np.uint8)
    sizes, keys = [], []
    for n, rate in enumerate([400_000] * 20 + [440_000] * 20 + [150_000] * 20):
        encoder.target_bitrate = rate
        payloads, _ = encoder.encode(out(noise[n], n))
        sizes.append(sum(map(len, payloads)))
        keys.append(is_key(payloads))
    assert [n for n, key in enumerate(keys) if key] == [0, 40]
    assert sum(sizes[45:]) / 15 < 0.7 * sum(sizes[5:40]) / 35


def test_odd_and_changing_sizes() -> None:
    encoder, viewer = H264Encoder("libx264"), Viewer()
    assert close(viewer.see(encoder.encode(out(picture(0, (97, 131)), 0))[0]), picture(0, (96, 130)))
    second, _ = encoder.encode(out(picture(1, (64, 80)), 1))
    assert is_key(second)
    assert close(Viewer().see(second), picture(1, (64, 80)))


def reel(length: int = 120) -> tuple[IdleReel, list[U8]]:
    pictures = [picture(n) for n in range(length)]
    made = IdleReel(
        np.arange(length, dtype=np.int32), lambda n: planar(pictures[n]), name="libx264", bits_per_s=400_000
    )
    while made.encode_next():
        assert made.part(0) is None, "half a reel must not be shown"
    return made, pictures


def test_a_viewer_joins_a_reel_at_a_key_picture_and_leaves_it_with_one() -> None:
    made, pictures = reel()
    encoder, viewer = H264Encoder("libx264"), Viewer()
    begin = KEY_EVERY - 2  # two pictures before a place to join
    taken = []
    for slot in range(10):
        place = begin + slot
        talks = slot >= 7
        shown = picture(1000 + slot) if talks else pictures[place]
        part = None if talks else made.part(place)
        payloads, timestamp = encoder.encode(out(shown, slot, part))
        taken.append(part is not None and encoder._reel_index == place)
        assert timestamp == 3600 * slot
        assert is_key(payloads) == (slot in (0, 2, 7))
        assert close(viewer.see(payloads), shown)
    assert taken == [False] * 2 + [True] * 5 + [False] * 3


def test_a_reel_is_left_when_a_part_was_dropped_or_lost_or_is_too_large() -> None:
    made, _ = reel()

    def sends(places: list[int], forced: int | None = None, rate: int = 400_000) -> list[bool]:
        """Whether each place was sent from the reel."""
        encoder = H264Encoder("libx264")
        encoder.target_bitrate = rate
        from_reel = []
        for slot, place in enumerate(places):
            encoder.encode(out(picture(place), slot, made.part(place)), force_keyframe=slot == forced)
            from_reel.append(encoder._reel_index is not None)
        return from_reel

    assert sends([0, 1, 3, 4]) == [True, True, False, False]  # 2 was dropped from the queue
    assert sends([0, 1, 2, 3], forced=2) == [True, True, False, False]
    assert sends([49, 50, 51], forced=1) == [False, True, True]  # a key picture answers a loss
    assert sends([0, 1], rate=200_000) == [False, False]
    assert sends([118, 119, 0, 1]) == [False, False, True, True]
    assert sends([KEY_EVERY * 2, *range(101, 120), 0, 1])[-2:] == [True, True]  # round the loop


def test_vp8() -> None:
    encoder, viewer = Vp8Encoder(), Viewer("vp8")
    for slot in range(3):
        part = ReelPart(slot, 9, True, b"h264 is not for it", 1)
        payloads, timestamp = encoder.encode(out(picture(slot), slot, part))
        assert timestamp == 3600 * slot
        assert close(viewer.see(payloads), picture(slot))


def test_which_encoder() -> None:
    assert isinstance(encoder_for("video/VP8", "libx264"), Vp8Encoder)
    assert isinstance(encoder_for("video/H264", VP8), H264Encoder)
    assert preferred_codecs("libx264") == ("video/H264", "video/VP8")
    assert preferred_codecs(VP8) == ("video/VP8", "video/H264")
    assert choose(VP8) == VP8
    assert works("libx264")


def test_auto_takes_the_first_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_encoder, "works", lambda name: name == "libx264")
    assert choose("auto") == "libx264"
    monkeypatch.setattr(video_encoder, "works", lambda name: False)
    assert choose("auto") == VP8


def test_a_card_that_refuses_another_stream_gives_way_to_libx264(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(video_encoder.H264_OPTIONS, "no_such_encoder", {})
    encoder = H264Encoder("no_such_encoder")
    assert close(Viewer().see(encoder.encode(out(picture(0), 0))[0]), picture(0))
    assert not works("no_such_encoder")
