"""Sounds that no mouth makes."""

from __future__ import annotations

import numpy as np
import pytest

from mytalk.audio.speech import SILENCE
from training.non_speech import KINDS, made_up, music, noise

RATE = 16_000


@pytest.mark.parametrize("make", [make for make, _ in KINDS])
def test_every_kind_is_a_sound_and_no_two_are_alike(make):
    random = np.random.default_rng(0)
    sounds = [make(random, 2 * RATE) for _ in range(8)]
    assert all(
        sound.shape == (2 * RATE,) and np.isfinite(sound).all() and sound.std() > 0 for sound in sounds
    )
    alike = np.corrcoef(sounds) - np.eye(8)
    assert np.abs(alike).max() < 0.5


def test_shares_are_of_all():
    assert sum(share for _, share in KINDS) == pytest.approx(1)


def test_they_are_heard_at_many_levels_and_the_same_seed_gives_the_same():
    sounds = made_up(12, 1.0, 3)
    assert all(sound.shape == (100, 80) and sound.dtype == np.float32 for sound in sounds)
    assert all(np.array_equal(*pair) for pair in zip(sounds, made_up(12, 1.0, 3), strict=True))
    assert not np.array_equal(sounds[0], made_up(12, 1.0, 4)[0])
    levels = [0.5 * np.log(np.exp(2 * sound).mean()) for sound in sounds]
    assert min(levels) > SILENCE
    assert max(levels) - min(levels) > 2


def test_noise_is_steady_and_music_is_not():
    random = np.random.default_rng(1)

    def unrest(make):
        powers = [np.square(make(random, 4 * RATE)).reshape(40, -1).mean(axis=1) for _ in range(10)]
        return float(np.median([power.std() / power.mean() for power in powers]))

    assert unrest(noise) < 0.3 < unrest(music)
