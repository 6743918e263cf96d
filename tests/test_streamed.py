"""The streamed motion of an utterance with the shipped weights, and silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mytalk.audio.speech import SILENCE, LogMelState, log_mel
from mytalk.engines import default_bundle, load_engine
from mytalk.landmarks.layout import load_layout
from mytalk.video.media import read_speech
from training.offsets import loudness
from training.silence import silence_figures
from training.streamed import Stream, opening, predicted_opening, stream_motion

SPEECH = Path(__file__).parent / "data" / "silence_then_speech.wav"


@pytest.fixture(scope="module")
def engine():
    return load_engine("onnx", default_bundle(), threads=1)


def test_frames_do_not_depend_on_what_is_heard_later(engine):
    random = np.random.default_rng(0)
    log_mel = (-4 + random.standard_normal((80, 80))).astype(np.float32)
    changed = log_mel.copy()
    changed[60:] = SILENCE
    upper = np.zeros((20, engine.spec.upper), np.float32)
    identity = engine.identity(np.ascontiguousarray(load_layout().template[:, :2]))
    one, other = (stream_motion(engine, mel, upper, identity, Stream(2, 1)) for mel in (log_mel, changed))
    assert one.shape == (20, engine.spec.compact, 3)
    np.testing.assert_array_equal(one[:12], other[:12])
    assert not np.array_equal(one[16:], other[16:])


def test_opening_is_the_gap_of_the_inner_lips(engine):
    layout = load_layout()
    still = np.zeros((2, len(layout.compact), 3), np.float32)
    moved = still.copy()
    place = {int(point): n for n, point in enumerate(layout.compact)}
    for point in layout.mouth_gap[1]:
        moved[1, place[int(point)], 1] = 0.1
    shut, wide = opening(moved, layout.template)
    assert wide - shut == pytest.approx(0.1, abs=0.01)
    assert opening(still, layout.template)[1] == pytest.approx(shut)


def test_the_mouth_opens_for_sound_and_stays_shut_in_silence(engine):
    sound = np.concatenate(list(read_speech(SPEECH, 16_000))).astype(np.float32) / 32768
    said = log_mel(LogMelState.initial(), sound)[1]
    frames = len(said) // 4
    quiet = np.full((4 * frames, 80), SILENCE, np.float32)
    spoken, unspoken = predicted_opening(engine, said, frames), predicted_opening(engine, quiet, frames)
    voiced = np.flatnonzero(loudness(said, frames) > -5)
    assert spoken[voiced].max() > unspoken.max() + 0.08  # the mean face's own lips are a little apart
    assert np.abs(spoken[: voiced[0] - 6] - unspoken[: voiced[0] - 6]).max() < 0.02
    hum = quiet.copy()
    hum[60:110] = -2.0 - 3 * np.abs(np.arange(80) / 80 - 0.2)
    assert predicted_opening(engine, hum, frames).max() < unspoken.max() + 0.05  # loud, but nobody speaks
    assert np.ptp(unspoken) < 0.01
    figures = silence_figures(engine, load_layout().template, Stream())
    assert abs(figures["opening_pct"]) < 3
    assert figures["jitter_pct"] < 1
