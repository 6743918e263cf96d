"""Opus packets become gapless 48 kHz mono, whatever was lost, left out or damaged."""

from __future__ import annotations

import av
import numpy as np
import pytest

from mytalk.types import I16
from server.rtc.microphone import Microphone, opus_samples
from tests.fakes import voice

REST = b"\xf8\xff"[:1]


def encoded(samples: I16, size: int = 960, layout: str = "mono") -> list[bytes]:
    """Opus packets of a sound."""
    encoder = av.CodecContext.create("libopus", "w")
    encoder.format, encoder.layout, encoder.sample_rate = "s16", layout, 48_000
    encoder.bit_rate = 64_000
    encoder.options = {"application": "audio", "frame_duration": f"{size / 48:g}"}
    packets = []
    for first in range(0, len(samples) - size + 1, size):
        block = samples[first : first + size]
        block = np.repeat(block, 2) if layout == "stereo" else block
        frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout=layout)
        frame.sample_rate, frame.pts = 48_000, first
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets


def hear(
    packets: list[bytes], size: int = 960, lost: tuple[int, ...] = (), microphone: Microphone | None = None
) -> I16:
    microphone = microphone or Microphone()
    parts = [
        microphone.receive(
            source=1, number=i, timestamp=i * size, payload=payload, now=1.0 + i * size / 48_000
        )
        for i, payload in enumerate(packets)
        if i not in lost
    ]
    return np.concatenate(parts)


@pytest.mark.parametrize("size", [480, 960, 1920, 2880])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_what_was_said_is_heard_in_any_packet_size(size: int, layout: str) -> None:
    said = voice(2.0)
    heard = hear(encoded(said, size, layout), size)
    assert heard.dtype == np.int16
    assert len(heard) == len(said) // size * size
    lag = 312  # of the encoder, 6.5 ms
    assert np.corrcoef(heard[lag:40_000], said[: 40_000 - lag])[0, 1] > 0.9


def test_lost_packets_are_made_up_from_what_was_said_before() -> None:
    packets = encoded(voice(2.0))
    whole, microphone = hear(packets), Microphone()
    heard = hear(packets, lost=(20, 40, 41), microphone=microphone)
    assert len(heard) == len(whole)
    assert microphone.stats.lost == 3
    assert np.abs(heard[20 * 960 : 21 * 960].astype(int)).max() > 1_000
    np.testing.assert_array_equal(heard[: 20 * 960], whole[: 20 * 960])


def test_a_pause_of_the_sender_is_silence_and_goes_on_by_the_clock() -> None:
    microphone, packets = Microphone(), encoded(voice(1.0))
    hear(packets[:10], microphone=microphone)
    parts = [microphone.receive(source=1, number=10, timestamp=9_600, payload=REST, now=1.2)]
    while (due := microphone.next_due()) is not None and due < 1.58:
        parts.append(microphone.poll(due))
    parts.append(
        microphone.receive(source=1, number=11, timestamp=9_600 + 19_200, payload=packets[11], now=1.6)
    )
    assert sum(map(len, parts)) == 19_200 + 960
    assert not np.concatenate(parts[3:-1]).any()


def test_damaged_packets_cost_their_own_time_only() -> None:
    packets, microphone = encoded(voice(2.0)), Microphone()
    packets[30] = packets[30][:1] + b"\xff" * 3
    packets[50] = b"\xfb"  # says that it holds any number of frames, and holds none
    heard = hear(packets, microphone=microphone)
    assert len(heard) == len(packets) * 960
    assert np.isfinite(heard).all()


def test_any_bytes_are_taken() -> None:
    rng, microphone = np.random.default_rng(5), Microphone()
    for i in range(3_000):
        payload = rng.bytes(int(rng.integers(0, 80)))
        got = microphone.receive(
            source=1, number=i, timestamp=i * 960 & 0xFFFFFFFF, payload=payload, now=i / 50
        )
        assert len(got) <= 48_000 + 5_760


@pytest.mark.parametrize(
    ("payload", "samples"),
    [
        (b"", 0),
        (b"\x08", 960),
        (b"\xf8\x01", 960),
        (b"\x18\x01", 2_880),
        (b"\x80\x01", 120),
        (b"\xf9ab", 1_920),
        (b"\xfb\x03abc", 2_880),
        (b"\xfb\x3f", 0),
        (b"\xfb", 0),
    ],
)
def test_a_packet_says_how_long_it_is(payload: bytes, samples: int) -> None:
    assert opus_samples(payload) == samples
