from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk.audio.speech import HOP, MELS, SILENCE, LogMelState, log_mel
from mytalk.motion import analysis_samples_needed, hop_noise, left_mel_frames, mel_context
from mytalk.types import F32
from tests.fakes import FAKE_SPEC


def numbered(count: int) -> F32:
    """Log-mel frames that carry their own index."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], MELS, axis=1)


def test_the_context_starts_left_of_the_first_token() -> None:
    left = left_mel_frames(FAKE_SPEC)
    assert left == 126 - 8 * 4 - 2
    context = mel_context(numbered(400), 0, 50, FAKE_SPEC)
    assert context.shape == (126, MELS)
    assert context[left, 0] == 50 * 4
    assert np.array_equal(context[:, 0], np.arange(200 - left, 200 - left + 126))


def test_outside_the_utterance_is_silence() -> None:
    left = left_mel_frames(FAKE_SPEC)
    context = mel_context(numbered(10), 0, 0, FAKE_SPEC)
    assert (context[:left] == np.float32(SILENCE)).all()
    assert np.array_equal(context[left : left + 10, 0], np.arange(10))
    assert (context[left + 10 :] == np.float32(SILENCE)).all()


@given(first=st.integers(0, 60), forgotten=st.integers(0, 300))
def test_what_earlier_hops_heard_may_be_forgotten(first: int, forgotten: int) -> None:
    mel = numbered(400)
    unheard = first * 4 - left_mel_frames(FAKE_SPEC)
    offset = max(0, min(forgotten, unheard))
    whole = mel_context(mel, 0, first, FAKE_SPEC)
    assert np.array_equal(mel_context(mel[offset:], offset, first, FAKE_SPEC), whole)


def test_the_needed_samples_fill_the_context_exactly() -> None:
    needed = analysis_samples_needed(8, FAKE_SPEC)
    speech = np.full(needed, 0.1, np.float32)
    _, full = log_mel(LogMelState.initial(), speech)
    context = mel_context(full, 0, 0, FAKE_SPEC)
    assert (context[-1] > SILENCE).any()
    _, short = log_mel(LogMelState.initial(), speech[:-HOP])
    assert (mel_context(short, 0, 0, FAKE_SPEC)[-1] == np.float32(SILENCE)).all()


@given(seed=st.integers(-(2**63), 2**63), utterance=st.integers(0, 2**31), first=st.integers(0, 2**31))
def test_noise_depends_on_seed_utterance_and_frame_alone(seed: int, utterance: int, first: int) -> None:
    whole = hop_noise(seed, utterance, first, 6, 16)
    assert whole.shape == (6, 16)
    assert whole.dtype == np.float32
    assert np.array_equal(hop_noise(seed, utterance, first + 2, 3, 16), whole[2:5])
    assert not np.array_equal(hop_noise(seed + 1, utterance, first, 6, 16), whole)
    assert not np.array_equal(hop_noise(seed, utterance + 1, first, 6, 16), whole)


def test_noise_is_standard_normal() -> None:
    noise = hop_noise(3, 0, 0, 2000, 16)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert hop_noise(3, 0, 0, 0, 16).shape == (0, 16)
