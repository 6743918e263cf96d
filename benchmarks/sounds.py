"""Sounds that a mouth is tried on: files, voices made from them, and what is no speech at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.audio.resample import PcmResampler
from mytalk.errors import BadInput
from mytalk.types import I16
from mytalk.video.media import read_speech

RATE_HZ = 48_000
SPEECH_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".mp4")
LOUD_PEAK = 0.5  # that speech is brought to, as a microphone with gain control would
CHILD_PITCH = (
    1.35  # a woman's voice, pitch and formants up by so much: about a child of six; it talks faster, too
)
TELEPHONE_HZ = 8_000
PAUSE_S = 0.3  # between the files of a folder
NOTES_HZ = (220.0, 261.6, 329.6, 440.0, 392.0, 329.6, 261.6, 196.0)
NOTE_S = 0.25

Real = npt.NDArray[np.float64]


def speech_file(path: Path, seconds: float) -> I16:
    """The first seconds of a sound, or of all sounds in a folder one after the other; 48 kHz mono int16."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SPEECH_SUFFIXES)
    if not files:
        raise BadInput(f"{path}: no sound in it")
    pause, parts, length = np.zeros(round(PAUSE_S * RATE_HZ), np.int16), [], 0
    for file in files:
        if length >= seconds * RATE_HZ:
            break
        parts += [_levelled(np.concatenate(list(read_speech(file, RATE_HZ)))), pause]
        length += len(parts[-2]) + len(pause)
    said: I16 = np.concatenate(parts)[: round(seconds * RATE_HZ)]
    return said


def _levelled(samples: I16) -> I16:
    peak = float(np.abs(samples.astype(np.int32)).max(initial=1)) / 32768
    return pcm(samples / 32768 * min(20.0, LOUD_PEAK / peak))


def pcm(samples: Real) -> I16:
    """Floats in -1..1 as int16."""
    return np.clip(samples * 32767, -32768, 32767).astype(np.int16)


def resampled(samples: I16, rate_hz: int, target_hz: int) -> I16:
    """The same sound at another rate."""
    resampler = PcmResampler(rate_hz, target_hz)
    return np.concatenate([resampler.push(samples), resampler.flush()])


def as_child(samples: I16) -> I16:
    """A voice with a child's pitch and vocal tract: played faster."""
    return resampled(samples, round(RATE_HZ * CHILD_PITCH), RATE_HZ)


def by_telephone(samples: I16) -> I16:
    """A voice through a telephone: 300 to 3,400 Hz, eight bits by μ-law."""
    narrow = resampled(samples, RATE_HZ, TELEPHONE_HZ).astype(np.float64)
    spectrum = np.fft.rfft(narrow)
    hz = np.fft.rfftfreq(len(narrow), 1 / TELEPHONE_HZ)
    spectrum[(hz < 300) | (hz > 3400)] = 0
    line = np.fft.irfft(spectrum, len(narrow)) / 32768
    folded = np.sign(line) * np.log1p(255 * np.abs(line)) / np.log(256)
    coded = np.round(folded * 127) / 127
    heard = np.sign(coded) * (256 ** np.abs(coded) - 1) / 255
    return resampled(pcm(heard), TELEPHONE_HZ, RATE_HZ)


def with_noise(samples: I16, snr_db: float, seed: int = 0) -> I16:
    """A voice in a steady noise, as of a fan (falling by 3 dB an octave)."""
    power = float(np.square(samples / 32768).mean())
    noise = coloured_noise(len(samples), seed)
    return pcm(samples / 32768 + noise * np.sqrt(power / 10 ** (snr_db / 10)))


def coloured_noise(length: int, seed: int) -> Real:
    """Pink noise of power 1, float64 [length]."""
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(length))
    white[1:] /= np.sqrt(np.arange(1, len(white)))
    white[0] = 0
    pink: Real = np.fft.irfft(white, length)
    return pink / max(float(pink.std()), 1e-12)


def noise(seconds: float, level_dbfs: float, seed: int = 0) -> I16:
    """Nothing but that noise."""
    return pcm(coloured_noise(round(seconds * RATE_HZ), seed) * 10 ** (level_dbfs / 20))


def music(seconds: float) -> I16:
    """A plain tune with chords and a beat, no voice."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    number = (time_s / NOTE_S).astype(int)
    since = time_s - number * NOTE_S
    hz = np.array(NOTES_HZ)[number % len(NOTES_HZ)]
    fade = np.minimum(1, since / 0.01) * np.exp(-4 * since)
    tune = sum(np.sin(2 * np.pi * k * hz * since) / k**1.5 for k in (1, 2, 3, 4)) * fade
    chord = sum(np.sin(2 * np.pi * f * time_s) for f in (110.0, 164.8, 220.0, 277.2)) / 4
    beat = np.random.default_rng(3).standard_normal(len(time_s)) * np.exp(-60 * (since % (2 * NOTE_S)))
    mixed = 0.4 * tune + 0.25 * chord + 0.15 * beat * (number % 2 == 0)
    return pcm(0.5 * mixed / np.abs(mixed).max())


def joined(parts: Iterable[I16], seconds: float) -> I16:
    """Sounds one after the other, again and again, for some seconds."""
    once = np.concatenate(list(parts))
    return np.resize(once, round(seconds * RATE_HZ))
