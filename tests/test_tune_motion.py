"""How wide a person opens the mouth, measured on their own speech."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mytalk.actors.actor import load_actor
from mytalk.actors.tuned import OPENINGS
from mytalk.dubbing.motion import speech_motion
from mytalk.engines import default_bundle, load_engine
from mytalk.landmarks.normalise import mouth_opening
from mytalk.video.media import read_speech
from training.tune_motion import Talk, opening_share, share_of, talk_of_video

HERE = Path(__file__).resolve().parent
ADA = HERE.parent / "actors" / "ada"
VOICE = HERE / "data" / "silence_then_speech.wav"


def openings(count: int = 200) -> np.ndarray:
    return np.abs(np.random.default_rng(0).normal(0, 0.1, count)).astype(np.float32)


def share(filmed: np.ndarray, made: np.ndarray) -> float:
    return share_of(filmed, made, np.ones(len(filmed), np.bool_))


def test_a_mouth_that_opens_less_is_told_to() -> None:
    made = openings()
    assert share(0.75 * made, made) == pytest.approx(0.75)
    assert share(1.2 * made, made) == pytest.approx(1.2)
    assert share(3 * made, made) == OPENINGS[1]
    assert share(0.1 * made, made) == OPENINGS[0]


def test_sound_out_of_step_does_no_harm() -> None:
    made = openings()
    for lag in (-6, -2, 5):
        assert share(np.roll(0.75 * made, lag), made) == pytest.approx(0.75, abs=0.02)


def test_what_differs_otherwise_counts_for_less_than_its_spread() -> None:
    made = openings(2000)
    noise = np.random.default_rng(1).normal(0, 0.7 * made.std(), len(made)).astype(np.float32)
    noisy = made + noise
    correlation = np.corrcoef(noisy, made)[0, 1]
    assert correlation * noisy.std() < share(noisy, made) * made.std() < noisy.std()


def test_a_mouth_that_says_something_else_is_left_alone() -> None:
    made = openings()
    assert share(np.roll(0.7 * made, 90), made) == 1
    assert share(0.7 * made[:40], made[:40]) == 1, "too short"
    assert share(np.zeros_like(made), made) == 1, "a still mouth"


@pytest.fixture(scope="module")
def engine():
    return load_engine("onnx-fp32", default_bundle(), 2)


def test_it_is_measured_against_what_the_motion_model_says(engine) -> None:
    actor, frames = load_actor(ADA), 140
    rows = np.arange(frames) % actor.card.frames
    rest, layout = actor.motion.rest, actor.layout
    still = np.zeros(frames, np.float32)
    talk = talk_of_video(VOICE, 0, actor.upper[rows], rest, still, np.ones(frames, np.bool_))
    assert talk is not None
    assert opening_share(engine, talk) == 1, "a mouth that does not talk"
    identity = engine.identity(np.ascontiguousarray(rest[:, :2]))
    moved = np.stack(list(speech_motion(iter([talk.speech]), frames, talk.upper, engine, identity)))
    faces = np.repeat(rest[None], frames, axis=0)
    faces[:, layout.compact] += np.float32(0.7) * moved
    filmed = replace(talk, opening=mouth_opening(faces, layout))
    assert opening_share(engine, filmed) == pytest.approx(0.7, abs=0.03)
    # Where the mouth was hidden nothing can be learnt, whatever is said to be seen there.
    hidden = filmed.opening.copy()
    hidden[100:] = 5.0
    assert opening_share(
        engine, replace(filmed, opening=hidden, shown=np.arange(frames) < 100)
    ) == pytest.approx(0.7, abs=0.03)


def test_sound_that_ends_before_the_picture_is_enough(engine) -> None:
    actor, frames = load_actor(ADA), 140
    rows = np.arange(frames) % actor.card.frames
    seen, still = np.ones(frames, np.bool_), np.zeros(frames, np.float32)
    talk = talk_of_video(VOICE, 0, actor.upper[rows], actor.motion.rest, still, seen)
    assert talk is not None
    assert opening_share(engine, replace(talk, speech=talk.speech[: 100 * 1920])) == 1


def test_a_part_of_the_sound_is_taken() -> None:
    whole = np.concatenate(list(read_speech(VOICE, 48_000)))
    some = np.zeros((50, 4), np.float32)
    talk = talk_of_video(VOICE, 60, some, some, some[:, 0], some[:, 0] == 0)
    assert talk is not None
    np.testing.assert_array_equal(talk.speech, whole[60 * 1920 : 110 * 1920])


def test_without_speech_nothing_is_told(engine, tmp_path) -> None:
    assert opening_share(engine, None) == 1
    nothing = np.zeros((10, 4), np.float32)
    silent = tmp_path / "silent.txt"
    silent.write_text("no sound in here")
    assert talk_of_video(silent, 0, nothing, nothing, nothing[:, 0], nothing[:, 0] == 0) is None
    late = talk_of_video(VOICE, 10_000, nothing, nothing, nothing[:, 0], nothing[:, 0] == 0)
    assert isinstance(late, Talk)
    assert opening_share(engine, late) == 1, "the sound ends before the part begins"
