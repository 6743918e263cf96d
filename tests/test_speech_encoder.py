"""Speech encoders: any split gives the same bits, offline = streaming, and the delay is what is said."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mytalk.audio.speech import LogMelState, log_mel
from mytalk.audio.speech_encoder import FixedContextEncoder, LogMelEncoder, encode_all
from mytalk.clock import ANALYSIS_RATE
from mytalk.errors import BadInput

HOP, FRAME, LEFT, RIGHT = 3, 8, 20, 10


def middle(stretch):
    """Features that depend on everything a chunk hears: frame means, and the whole stretch's sum."""
    frames = stretch[LEFT : LEFT + HOP * FRAME].reshape(HOP, FRAME).mean(axis=1)
    return np.stack([frames, np.full(HOP, stretch.sum())], axis=1).astype(np.float32)


CHUNKED = FixedContextEncoder(middle, 2, FRAME, HOP, LEFT, RIGHT)
ENCODERS = pytest.mark.parametrize("encoder", [CHUNKED, LogMelEncoder()], ids=["fixed context", "log-mel"])


def sound(count, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, count).astype(np.float32)


@ENCODERS
@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 1500), max_size=6), count=st.integers(0, 1500))
def test_any_split_gives_the_same_bits_as_the_whole(encoder, cuts, count):
    samples = sound(count)
    state, parts = encoder.initial(), []
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    for low, high in pairwise(edges):
        state, frames = encoder.encode(state, samples[low:high])
        parts.append(frames)
    streamed = np.concatenate([*parts, encoder.finish(state)])
    np.testing.assert_array_equal(streamed, encode_all(encoder, samples))
    assert streamed.shape == (-(-count // encoder.samples_per_frame), encoder.width)


@ENCODERS
def test_a_frame_comes_within_the_stated_delay_and_the_bound_is_reached(encoder):
    samples, per = sound(60 * encoder.samples_per_frame), encoder.samples_per_frame
    state, ready_at = encoder.initial(), []
    for heard, sample in enumerate(samples, 1):
        state, frames = encoder.encode(state, samples[heard - 1 : heard])
        ready_at += [heard] * len(frames)
        assert sample == samples[heard - 1]
    waits = [heard - per * (i + 1) for i, heard in enumerate(ready_at)]
    assert max(waits) == round(encoder.delay_s * ANALYSIS_RATE)
    assert min(waits) >= 0


def test_every_chunk_hears_exactly_its_context():
    samples = sound(200)
    features = encode_all(CHUNKED, samples)
    padded = np.concatenate([np.zeros(LEFT, np.float32), samples, np.zeros(100, np.float32)])
    for chunk in range(3):
        start = chunk * HOP * FRAME
        expected = middle(padded[start : start + LEFT + HOP * FRAME + RIGHT])
        np.testing.assert_array_equal(features[chunk * HOP : (chunk + 1) * HOP], expected)


def test_memory_is_bounded():
    state = CHUNKED.initial()
    for i in range(200):
        state, _ = CHUNKED.encode(state, sound(37, i))
        assert len(state.samples) <= LEFT + HOP * FRAME + RIGHT


def test_log_mel_is_the_shipped_front_end():
    samples = sound(1600)
    np.testing.assert_array_equal(
        encode_all(LogMelEncoder(), samples), log_mel(LogMelState.initial(), samples)[1]
    )


def test_impossible_chunks_are_refused():
    with pytest.raises(BadInput, match="at least 1"):
        FixedContextEncoder(middle, 2, FRAME, 0, LEFT, RIGHT)
    with pytest.raises(BadInput, match="negative"):
        FixedContextEncoder(middle, 2, FRAME, HOP, -1, RIGHT)
    with pytest.raises(BadInput, match="for a chunk of"):
        encode_all(FixedContextEncoder(lambda x: middle(x)[:1], 2, FRAME, HOP, LEFT, RIGHT), sound(100))
