"""Other voices, microphones, rooms and telephones, made in the log-mel spectrogram: the timing stays."""

from __future__ import annotations

import numpy as np

from mytalk.audio.speech import HOP, SILENCE, band_edges_hz
from mytalk.clock import ANALYSIS_RATE
from mytalk.types import F32

MEL_FRAME_S = HOP / ANALYSIS_RATE
ROOM_SHARE, TELEPHONE_SHARE = 0.2, 0.15  # of sequences
DECAY_S = (0.15, 0.7)  # until a room's sound has fallen by 60 dB
DIRECT_DB = (-2.0, 15.0)  # the voice itself above what the room adds, in a sound that goes on
TELEPHONE_FROM_HZ, TELEPHONE_TO_HZ = (200.0, 350.0), (3200.0, 3800.0)
NEPER_PER_DB = float(np.log(10.0)) / 20  # log-mel is the natural logarithm of an amplitude


def mixed(first: F32, second: F32) -> F32:
    """Two sounds that have nothing to do with each other at once, float32 [n, 80] each: powers add."""
    return (0.5 * np.logaddexp(2 * first, 2 * second)).astype(np.float32)


def in_a_room(log_mel: F32, decay_s: float, direct_db: float) -> F32:
    """The voice and what a room's walls add: its power goes on, falling by 60 dB in ``decay_s``.

    log_mel: float32 [n, 80]. direct_db: of the voice above the echo, where a sound goes on for long.
    """
    keep = float(np.exp(-2 * 60 * NEPER_PER_DB * MEL_FRAME_S / decay_s))  # of power, from frame to frame
    gain = float(np.exp(-2 * NEPER_PER_DB * direct_db)) * (1 - keep)
    power, nothing = np.exp(2 * log_mel.astype(np.float64)), np.exp(2 * SILENCE)
    echo, out = np.zeros(power.shape[1]), np.empty_like(power)
    for index, row in enumerate(power):
        out[index] = row + gain * echo
        echo = keep * echo + np.maximum(row - nothing, 0)
    return (0.5 * np.log(out)).astype(np.float32)


def by_telephone(log_mel: F32, from_hz: float, to_hz: float, floor: float = SILENCE) -> F32:
    """What a telephone leaves of it: bands [n, 80] outside fall by 60 dB, down to ``floor``."""
    edges_hz = band_edges_hz()
    outside = (edges_hz[2:] < from_hz) | (edges_hz[:-2] > to_hz)
    quieter = np.maximum(log_mel - 60 * NEPER_PER_DB, floor)
    return np.where(outside, np.minimum(log_mel, quieter), log_mel).astype(np.float32)


def _stretched(log_mel: F32, stretch: float) -> F32:
    """Another vocal tract: bands [n, 80] moved along the mel axis."""
    last = log_mel.shape[1] - 1
    source = np.clip(np.arange(last + 1, dtype=np.float32) * stretch, 0, last)
    low = np.floor(source).astype(int)
    high, share = np.minimum(low + 1, last), (source - low).astype(np.float32)
    return log_mel[:, low] * (1 - share) + log_mel[:, high] * share


def change_voice(log_mel: F32, random: np.random.Generator) -> F32:
    """Another vocal tract, room, microphone, gain and noise floor; timing stays. float32 [n, 80]."""
    bands = np.arange(log_mel.shape[1], dtype=np.float32)
    out = log_mel
    if random.random() < 0.7:
        out = _stretched(out, random.uniform(0.86, 1.16))
    tilt = random.uniform(-1.2, 1.2) * (bands / len(bands) - 0.5)
    wave = random.uniform(0, 0.5) * np.sin(bands * random.uniform(0.05, 0.3) + random.uniform(0, 6.3))
    out = out + (random.uniform(-2.5, 1.0) + tilt + wave)
    if random.random() < ROOM_SHARE:
        out = in_a_room(out, random.uniform(*DECAY_S), random.uniform(*DIRECT_DB))
    if random.random() < 0.6:
        floor = random.uniform(-11.0, -5.0) + random.uniform(-1.0, 1.0) * (bands / len(bands) - 0.5)
        noise = floor + 0.35 * random.standard_normal(out.shape)
        out = np.logaddexp(out, noise)
    if random.random() < TELEPHONE_SHARE:
        out = by_telephone(out, random.uniform(*TELEPHONE_FROM_HZ), random.uniform(*TELEPHONE_TO_HZ))
    return np.maximum(out, SILENCE).astype(np.float32)
