from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk.audio.resample import PcmResampler
from mytalk.errors import BadInput
from mytalk.types import I16

RATES = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000]


def resample(samples: I16, rate_hz: int, target_hz: int, cuts: list[int] | None = None) -> I16:
    resampler = PcmResampler(rate_hz, target_hz)
    pieces = np.split(samples, sorted(cuts or []))
    return np.concatenate([resampler.push(piece) for piece in pieces] + [resampler.flush()])


def noise(count: int, seed: int = 0) -> I16:
    return (np.random.default_rng(seed).standard_normal(count) * 6000).clip(-32768, 32767).astype(np.int16)


@given(
    rate_hz=st.sampled_from(RATES),
    target_hz=st.sampled_from([16_000, 48_000]),
    count=st.integers(0, 6000),
    data=st.data(),
)
def test_any_split_gives_the_same_samples(
    rate_hz: int, target_hz: int, count: int, data: st.DataObject
) -> None:
    samples = noise(count)
    cuts = data.draw(st.lists(st.integers(0, count), max_size=20))
    whole = resample(samples, rate_hz, target_hz)
    assert np.array_equal(whole, resample(samples, rate_hz, target_hz, cuts))
    assert len(whole) == -(-count * target_hz // rate_hz)


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("target_hz", [16_000, 48_000])
def test_a_click_stays_where_it_was(rate_hz: int, target_hz: int) -> None:
    at_s = 0.5
    click = np.zeros(rate_hz, np.int16)
    click[round(at_s * rate_hz)] = 30_000
    energy = resample(click, rate_hz, target_hz).astype(float) ** 2
    centre = float((energy * np.arange(len(energy))).sum() / energy.sum())
    assert abs(centre / target_hz - at_s) < 0.25 / target_hz


@pytest.mark.parametrize("rate_hz", RATES)
def test_equal_rates_pass_bit_for_bit_and_at_once(rate_hz: int) -> None:
    samples = noise(1000)
    resampler = PcmResampler(rate_hz, rate_hz)
    assert np.array_equal(resampler.push(samples), samples)
    assert len(resampler.flush()) == 0


@pytest.mark.parametrize("target_hz", [16_000, 48_000])
def test_it_lags_little_enough_for_a_live_microphone(target_hz: int) -> None:
    for rate_hz in RATES:
        given_s = len(PcmResampler(rate_hz, target_hz).push(noise(rate_hz // 10))) / target_hz
        assert given_s > 0.1 - 0.003


def test_a_sine_keeps_its_level_and_frequency() -> None:
    t = np.arange(44_100) / 44_100
    sine = (np.sin(2 * np.pi * 440 * t) * 10_000).astype(np.int16)
    out = resample(sine, 44_100, 48_000)[4800:-4800].astype(float)
    spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out))))
    assert int(spectrum.argmax()) * 48_000 / len(out) == pytest.approx(440, abs=2)
    assert np.sqrt((out**2).mean()) == pytest.approx(10_000 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("rate", [0, -1, 7_999, 96_001, 48_000.0, True, "48000"])
def test_bad_rates_are_refused(rate: object) -> None:
    with pytest.raises(BadInput, match="sample rate") as caught:
        PcmResampler(rate, 48_000)  # type: ignore[arg-type]
    assert caught.value.code == "bad_rate"


def test_after_the_flush_nothing_goes_in() -> None:
    resampler = PcmResampler(8_000, 48_000)
    resampler.push(noise(100))
    resampler.flush()
    assert len(resampler.flush()) == 0
    with pytest.raises(BadInput, match="flushed"):
        resampler.push(noise(100))
