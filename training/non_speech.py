"""Sounds that no mouth makes: noises, hums, knocks and music, made up for training.

A model that has heard nothing but voices opens the mouth to a fan and sings along with a radio.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mytalk.audio.speech import LogMelState, log_mel
from mytalk.clock import ANALYSIS_RATE
from mytalk.types import F32

Real = npt.NDArray[np.float64]

LEVEL_DBFS = (-62.0, -18.0)
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))  # major, minor, pentatonic
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 11), (0, 3, 7, 10))


def _time_s(length: int) -> Real:
    return np.arange(length) / ANALYSIS_RATE


def noise(random: np.random.Generator, length: int) -> Real:
    """Steady noise of any colour (0 to 7 dB less an octave), perhaps of one band only; float64 [length]."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    hz = np.fft.rfftfreq(length, 1 / ANALYSIS_RATE)
    spectrum *= np.maximum(hz, 20.0) ** -random.uniform(0.0, 1.2)
    if random.random() < 0.4:
        low = np.exp(random.uniform(np.log(30.0), np.log(2000.0)))
        spectrum[(hz < low) | (hz > low * random.uniform(2.0, 20.0))] *= 0.03
    return np.fft.irfft(spectrum, length)


def swelling_noise(random: np.random.Generator, length: int) -> Real:
    """Noise that comes and goes, as of wind, rain, cars or waves."""
    times = np.linspace(
        0, length / ANALYSIS_RATE, max(2, round(length / ANALYSIS_RATE * random.uniform(0.3, 4)))
    )
    swell_db = random.uniform(3.0, 14.0) * random.standard_normal(len(times))
    return noise(random, length) * 10 ** (np.interp(_time_s(length), times, swell_db) / 20)


def hum(random: np.random.Generator, length: int) -> Real:
    """A mains or motor hum with its harmonics, over a little noise."""
    base_hz, time_s = random.choice([50.0, 60.0, 100.0, 120.0, random.uniform(40, 400)]), _time_s(length)
    falling = random.uniform(0.5, 2.0)
    parts = [
        np.sin(2 * np.pi * k * base_hz * time_s + random.uniform(0, 6.3)) / k**falling
        for k in range(1, int(random.integers(3, 20)))
        if k * base_hz < ANALYSIS_RATE / 2
    ]
    humming = np.sum(parts, axis=0)
    under = noise(random, length)
    return humming / humming.std() + random.uniform(0.02, 0.5) * under / under.std()


def knocks(random: np.random.Generator, length: int) -> Real:
    """Keys, clicks, steps and doors: short decaying bursts at odd times, over a little noise."""
    out = noise(random, length)
    out *= 0.02 / out.std()
    wait_s = random.uniform(0.08, 0.8)
    at = int(random.exponential(wait_s) * ANALYSIS_RATE)
    ring_hz, damping = random.uniform(80, 3000), random.uniform(20, 250)
    while at < length:
        time_s = _time_s(min(length - at, ANALYSIS_RATE // 4))
        ring = np.sin(2 * np.pi * ring_hz * random.uniform(0.8, 1.25) * time_s)
        burst = (ring + random.uniform(0, 2) * random.standard_normal(len(time_s))) * np.exp(
            -damping * time_s
        )
        out[at : at + len(time_s)] += random.uniform(0.2, 1.0) * burst
        at += 1 + int(random.exponential(wait_s) * ANALYSIS_RATE)
    return out


def _note(
    random_phase: float, hz: float, time_s: Real, harmonics: Real, decay: float, attack_s: float
) -> Real:
    tones = [
        weight * np.sin(2 * np.pi * (k + 1) * hz * time_s + random_phase)
        for k, weight in enumerate(harmonics)
        if (k + 1) * hz < ANALYSIS_RATE / 2
    ]
    fade = np.minimum(1, time_s / attack_s) * np.exp(-decay * time_s)
    tone: Real = np.sum(tones, axis=0) * fade
    return tone


def music(random: np.random.Generator, length: int) -> Real:
    """A tune of one instrument, chords of another, drums; any of them may be missing, not all."""
    out, beat_s = np.zeros(length), random.uniform(0.12, 0.6)
    root_hz, scale = 55.0 * 2 ** random.uniform(1, 3), SCALES[random.integers(len(SCALES))]
    wanted = random.random(3) < (0.8, 0.7, 0.6)
    if not wanted.any():
        wanted[1] = True
    loud = 10 ** (random.uniform(-12, 0, 3) / 20) * wanted
    drum_damping = random.uniform(25, 120)
    instruments = [
        (np.arange(1, 9) ** -random.uniform(0.7, 2.5), random.uniform(0.2, 8.0), random.uniform(0.003, 0.08))
        for _ in range(2)
    ]
    chord_beats = int(random.integers(2, 9))
    for number in range(int(length / ANALYSIS_RATE / beat_s) + 1):
        at = int(number * beat_s * ANALYSIS_RATE)
        if at >= length:
            break
        step = scale[random.integers(len(scale))]
        phase = random.uniform(0, 6.3)
        if loud[0] and random.random() < 0.8:
            time_s = _time_s(min(length - at, int(random.integers(1, 4) * beat_s * ANALYSIS_RATE)))
            octave = 2.0 ** random.integers(0, 2)
            out[at : at + len(time_s)] += loud[0] * _note(
                phase, root_hz * octave * 2 ** (step / 12), time_s, *instruments[0]
            )
        if loud[1] and number % chord_beats == 0:
            time_s = _time_s(min(length - at, int(chord_beats * beat_s * ANALYSIS_RATE)))
            for tone in CHORDS[random.integers(len(CHORDS))]:
                hz = root_hz / 2 * 2 ** ((step + tone) / 12)
                out[at : at + len(time_s)] += loud[1] / 2 * _note(phase, hz, time_s, *instruments[1])
        if loud[2] and random.random() < 0.7:
            time_s = _time_s(min(length - at, ANALYSIS_RATE // 5))
            hit = random.standard_normal(len(time_s)) + 2 * np.sin(
                2 * np.pi * random.uniform(50, 200) * time_s
            )
            out[at : at + len(time_s)] += 0.4 * loud[2] * hit * np.exp(-drum_damping * time_s)
    return out


KINDS: tuple[tuple[Callable[[np.random.Generator, int], Real], float], ...] = (
    (noise, 0.25),
    (swelling_noise, 0.15),
    (hum, 0.1),
    (knocks, 0.15),
    (music, 0.35),
)


def non_speech(random: np.random.Generator, seconds: float) -> F32:
    """One sound that is no speech, at any loudness: its log-mel, float32 [100 × seconds, 80]."""
    shares = [share for _, share in KINDS]
    make = KINDS[random.choice(len(KINDS), p=shares)][0]
    sound = make(random, round(seconds * ANALYSIS_RATE))
    level = 10 ** (random.uniform(*LEVEL_DBFS) / 20)
    sound = np.clip(sound * level / max(float(np.sqrt(np.square(sound).mean())), 1e-9), -1, 1)
    return log_mel(LogMelState.initial(), sound.astype(np.float32))[1]


def made_up(count: int, seconds: float, seed: int) -> tuple[F32, ...]:
    """``count`` of them, the same for the same seed."""
    random = np.random.default_rng((seed, count))
    return tuple(non_speech(random, seconds) for _ in range(count))
