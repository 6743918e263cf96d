"""Sounds that mouths are tried on: levels, pitches, bands."""

from __future__ import annotations

import wave

import numpy as np
import pytest

from benchmarks import sounds
from mytalk.errors import BadInput


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    time_s = np.arange(round(seconds * sounds.RATE_HZ)) / sounds.RATE_HZ
    return sounds.pcm(0.3 * np.sin(2 * np.pi * hz * time_s))


def loudest_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64)))
    return float(np.argmax(spectrum) * sounds.RATE_HZ / len(samples))


def write(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sounds.RATE_HZ)
        file.writeframes(samples.tobytes())


def test_a_child_is_higher_and_faster():
    child = sounds.as_child(tone(400))
    assert loudest_hz(child) == pytest.approx(400 * sounds.CHILD_PITCH, rel=0.01)
    assert len(child) == pytest.approx(sounds.RATE_HZ / sounds.CHILD_PITCH, rel=0.01)


def test_a_telephone_has_its_band():
    mixed = (tone(100) // 3 + tone(1000) // 3 + tone(6000) // 3).astype(np.int16)
    heard = np.abs(np.fft.rfft(sounds.by_telephone(mixed).astype(np.float64)))
    bins = {hz: heard[hz - 10 : hz + 10].max() for hz in (100, 1000, 6000)}
    assert bins[100] < 0.02 * bins[1000]
    assert bins[6000] < 0.02 * bins[1000]


@pytest.mark.parametrize("level", [-60, -40, -20])
def test_noise_is_as_loud_as_asked(level):
    made = sounds.noise(2.0, level) / 32768
    assert 20 * np.log10(made.std()) == pytest.approx(level, abs=0.5)


def test_a_voice_in_noise_keeps_its_ratio():
    voice = tone(500)
    added = sounds.with_noise(voice, 10).astype(np.float64) - voice
    assert 20 * np.log10(voice.std() / added.std()) == pytest.approx(10, abs=0.5)


def test_music_does_not_clip_and_goes_on():
    made = sounds.music(2.0)
    assert len(made) == 2 * sounds.RATE_HZ
    assert 0.4 * 32768 < np.abs(made.astype(int)).max() < 0.6 * 32768
    assert np.abs(made[-sounds.RATE_HZ // 4 :].astype(int)).max() > 1000


def test_a_folder_is_joined_and_levelled_and_an_empty_one_refused(tmp_path):
    with pytest.raises(BadInput, match="no sound in it"):
        sounds.speech_file(tmp_path, 1)
    for name, hz in (("a", 300), ("b", 500)):
        write(tmp_path / f"{name}.wav", tone(hz, 0.5) // 4)
    made = sounds.speech_file(tmp_path, 10)
    assert len(made) == pytest.approx((0.5 + sounds.PAUSE_S) * 2 * sounds.RATE_HZ, abs=200)
    assert np.abs(made.astype(int)).max() == pytest.approx(sounds.LOUD_PEAK * 32768, rel=0.02)
    assert loudest_hz(made[: sounds.RATE_HZ // 2]) == pytest.approx(300, abs=3)
    assert len(sounds.speech_file(tmp_path, 0.4)) == round(0.4 * sounds.RATE_HZ)


def test_joined_sounds_go_round():
    made = sounds.joined([tone(300, 0.2), tone(500, 0.3)], 1.2)
    assert len(made) == round(1.2 * sounds.RATE_HZ)
    assert np.array_equal(made[: sounds.RATE_HZ // 2], made[sounds.RATE_HZ // 2 : sounds.RATE_HZ])
