"""Voices, rooms and telephones in the log-mel spectrogram."""

from __future__ import annotations

import numpy as np
import pytest

from mytalk.audio.speech import SILENCE, band_edges_hz
from training.voices import NEPER_PER_DB, by_telephone, change_voice, in_a_room, mixed

SOUND_FROM, SOUND_TO = 20, 60


@pytest.fixture
def burst():
    log_mel = np.full((160, 80), SILENCE, np.float32)
    log_mel[SOUND_FROM:SOUND_TO] = -4.0
    return log_mel


def test_a_changed_voice_keeps_its_timing(burst):
    random = np.random.default_rng(0)
    for _ in range(60):
        loudness = change_voice(burst, random).mean(axis=1)
        before, during = loudness[:SOUND_FROM], loudness[SOUND_FROM:SOUND_TO]
        assert during.min() > before.max() - 1e-3


def test_powers_of_independent_sounds_add(burst):
    assert mixed(burst, burst) == pytest.approx(burst + NEPER_PER_DB * 10 * np.log10(2), abs=1e-5)
    assert mixed(burst, np.full_like(burst, SILENCE - 20)) == pytest.approx(burst, abs=1e-5)


def test_a_room_s_echo_falls_by_60_db_in_its_decay_time(burst):
    heard = in_a_room(burst, decay_s=0.3, direct_db=0.0)
    assert heard[:SOUND_FROM] == pytest.approx(burst[:SOUND_FROM], abs=1e-4)
    # It goes on as loud as the voice was, that being 0 dB above the echo, and falls by 2 dB a frame.
    after = heard[SOUND_TO : SOUND_TO + 20, 0]
    assert after[0] == pytest.approx(-4.0, abs=0.2)
    assert np.diff(after) == pytest.approx(-60 * NEPER_PER_DB * 0.01 / 0.3, abs=1e-2)
    assert heard[-1] == pytest.approx(SILENCE, abs=1e-2)


def test_a_telephone_keeps_its_band_and_makes_nothing_louder(burst):
    heard, edges_hz = by_telephone(burst, 300.0, 3400.0), band_edges_hz()
    inside = (edges_hz[2:] >= 300) & (edges_hz[:-2] <= 3400)
    assert np.array_equal(heard[:, inside], burst[:, inside])
    assert heard[SOUND_FROM:SOUND_TO, ~inside] == pytest.approx(-4.0 - 60 * NEPER_PER_DB)
    assert 20 < inside.sum() < 70
    assert (heard <= burst).all()
    assert heard.min() >= SILENCE
