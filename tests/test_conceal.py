"""What is made up for a lost packet: like the voice before it, fading, without clicks."""

from __future__ import annotations

import numpy as np
import pytest

from mytalk.audio.conceal import Concealer, pitch_lag
from mytalk.types import I16

RATE = 48_000


def vowel(count: int, hz: float = 125.0, level: float = 0.3) -> I16:
    """A steady voiced sound with four harmonics."""
    at = np.arange(count) / RATE
    sound = sum(np.sin(2 * np.pi * hz * k * at) / k for k in range(1, 5))
    return np.rint(sound * level * 32767 / 2).astype(np.int16)


@pytest.mark.parametrize("hz", [70.0, 125.0, 220.0, 380.0])
def test_the_pitch_is_found(hz: float) -> None:
    found = pitch_lag(vowel(1_600, hz).astype(np.float32))
    assert found is not None
    lag, likeness = found
    periods = lag * hz / RATE
    assert periods == pytest.approx(round(periods), abs=0.06)
    assert round(periods) >= 1
    assert likeness > 0.95


def test_too_short_a_sound_has_no_pitch() -> None:
    assert pitch_lag(np.zeros(200, np.float32)) is None
    assert pitch_lag(np.zeros(0, np.float32)) is None


def test_a_lost_packet_in_a_vowel_is_hardly_heard() -> None:
    sound, concealer = vowel(4_800), Concealer()
    concealer.push(sound[:2_400])
    made = concealer.conceal(960).astype(float)
    true = sound[2_400:3_360].astype(float)
    error = np.sqrt(np.mean((made - true) ** 2) / np.mean(true**2))
    assert error < 0.35, "silence would be 1"
    assert np.corrcoef(made, true)[0, 1] > 0.95


def test_nothing_jumps_at_the_joints() -> None:
    sound, concealer = vowel(4_800), Concealer()
    before = concealer.push(sound[:2_400])
    line = np.concatenate([before, concealer.conceal(1_000), concealer.push(sound[3_400:])])
    natural = np.abs(np.diff(sound.astype(int))).max()
    assert np.abs(np.diff(line.astype(int))).max() <= 1.5 * natural
    np.testing.assert_array_equal(line[3_640:], sound[3_640:], "after the joint it is what came")


def test_noise_does_not_click_either() -> None:
    noise = np.rint(np.random.default_rng(1).normal(0, 3_000, 9_600)).clip(-32768, 32767).astype(np.int16)
    concealer = Concealer()
    line = np.concatenate(
        [concealer.push(noise[:4_800]), concealer.conceal(960), concealer.push(noise[5_760:])]
    )
    assert np.abs(np.diff(line.astype(int))).max() <= 1.6 * np.abs(np.diff(noise.astype(int))).max()


def test_a_long_hole_falls_silent_within_60_ms() -> None:
    concealer = Concealer()
    concealer.push(vowel(2_400))
    parts = [concealer.conceal(960) for _ in range(6)]
    peaks = [int(np.abs(part.astype(int)).max()) for part in parts]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 5_000
    assert peaks[3:] == [0, 0, 0]


def test_without_loss_it_is_bit_for_bit_what_came() -> None:
    concealer, sound = Concealer(), vowel(3_000)
    got = [concealer.push(part) for part in np.split(sound, [1, 50, 50, 2_999])]
    np.testing.assert_array_equal(np.concatenate(got), sound)


def test_the_very_first_packet_may_be_lost() -> None:
    concealer = Concealer()
    assert not concealer.conceal(960).any()
    assert len(concealer.push(np.zeros(0, np.int16))) == 0
    assert len(concealer.conceal(0)) == 0
