"""What one hop of the motion model sees: its speech context, its noise, and when it may run."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mytalk.audio.speech import HOP, MEL_FRAMES_PER_FRAME, MELS, SILENCE
from mytalk.clock import ANALYSIS_SAMPLES_PER_FRAME
from mytalk.engines.engine import EngineSpec
from mytalk.types import F32


def left_mel_frames(spec: EngineSpec) -> int:
    """Log-mel frames before the first token that a motion call hears."""
    return spec.mel_frames - spec.tokens * MEL_FRAMES_PER_FRAME - spec.mel_right


def mel_context(log_mel: F32, offset: int, first_frame: int, spec: EngineSpec) -> F32:
    """The fixed speech context of the tokens that start at ``first_frame`` of an utterance.

    log_mel: float32 [n, 80], log-mel frames offset .. offset+n-1 of the utterance (100 Hz). What lies
    before the utterance or after the given frames is silence. Returns float32 [M, 80].
    """
    start = first_frame * MEL_FRAMES_PER_FRAME - left_mel_frames(spec) - offset
    context = np.full((spec.mel_frames, MELS), SILENCE, np.float32)
    low, high = max(0, start), min(len(log_mel), start + spec.mel_frames)
    if high > low:
        context[low - start : high - start] = log_mel[low:high]
    return context


def analysis_samples_needed(end_frame: int, spec: EngineSpec) -> int:
    """16 kHz samples of the utterance that tokens before ``end_frame`` need, right context included."""
    return end_frame * ANALYSIS_SAMPLES_PER_FRAME + spec.mel_right * HOP


def hop_noise(seed: int, utterance: int, first_frame: int, count: int, channels: int) -> F32:
    """Standard normal noise float32 [count, channels], a function of (seed, utterance, frame) alone."""
    if count == 0:
        return np.zeros((0, channels), np.float32)
    frames = range(first_frame, first_frame + count)
    return np.stack([_frame_noise(seed, utterance, frame, channels) for frame in frames])


# A frame is in several hops' tokens, and making a generator costs fifty times its numbers.
@lru_cache(maxsize=1024)
def _frame_noise(seed: int, utterance: int, frame: int, channels: int) -> F32:
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, (utterance << 32 | frame) & 0xFFFFFFFFFFFFFFFF], np.uint64)
    noise = np.random.Generator(np.random.Philox(key=key)).standard_normal(channels, dtype=np.float32)
    noise.flags.writeable = False
    return noise
