"""Outgoing sound: one Opus packet for 20 ms, that decodes to what went in, with the time it was given."""

from __future__ import annotations

import av
import numpy as np
from aiortc.codecs.opus import OpusDecoder
from aiortc.jitterbuffer import JitterFrame

from mytalk.types import I16
from server.rtc.sound_encoder import PACKET_SAMPLES, OpusEncoder


def tone(packets: int) -> I16:
    t = np.arange(packets * PACKET_SAMPLES) / 48_000
    return (8000 * np.sin(2 * np.pi * 440 * t)).astype(np.int16)


def test_every_20_ms_are_a_packet_with_its_own_time() -> None:
    """Times may jump, when sound had to be dropped."""
    encoder = OpusEncoder()
    for pts in (0, 960, 48_000, 48_960):
        packet = encoder.encode(np.zeros(PACKET_SAMPLES, np.int16), pts)
        assert (packet.pts, packet.time_base.denominator) == (pts, 48_000)
        assert 0 < packet.size < 400


def test_a_receiver_hears_what_was_sent() -> None:
    encoder, decoder, sent = OpusEncoder(), OpusDecoder(), tone(50)
    heard = []
    for first in range(0, len(sent), PACKET_SAMPLES):
        packet = encoder.encode(sent[first : first + PACKET_SAMPLES], first)
        for frame in decoder.decode(JitterFrame(bytes(packet), first)):
            assert isinstance(frame, av.AudioFrame)
            heard.append(frame.to_ndarray().reshape(-1, 2))
    left, right = np.concatenate(heard).astype(float).T
    np.testing.assert_array_equal(left, right)
    late = range(400)  # less than a period of the tone beyond the codec's own 312
    differences = [np.abs(left[4800 + shift : 43_200 + shift] - sent[4800:43_200]).mean() for shift in late]
    assert min(differences) < 300
    # what it holds back: browsers take that out again, as every Opus encoder does it
    assert int(np.argmin(differences)) <= 312
