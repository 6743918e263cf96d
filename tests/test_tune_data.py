"""Whose pictures are learnt from: the tail is held out, and references never show what is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.actors.actor import load_actor
from mytalk.landmarks.layout import load_layout
from mytalk.types import LipReferences
from training.appearance_data import AppearanceDraw
from training.looks import Looks
from training.tune_data import (
    GAP_FRAMES,
    MOST_PICTURES,
    NEAR_FRAMES,
    OwnBatches,
    Person,
    person_of_actor,
    person_of_video,
    thinned,
)

ADA = Path(__file__).resolve().parents[1] / "actors" / "ada"
FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"


@pytest.fixture(scope="module")
def person() -> Person:
    """Two seconds of an actor, whose lip references are pictures of their own."""
    whole = person_of_actor(load_actor(ADA))
    rows = [4, 20, 30]
    part = slice(0, 60)
    references = LipReferences(whole.crops[rows], whole.points[rows])
    return Person(whole.crops[part], whole.points[part], whole.opening[part], whole.frames[part], references)


def batches(person: Person, own_share: float) -> OwnBatches:
    draw = AppearanceDraw(clips=1, targets=3, flip=False)
    return OwnBatches(person, draw, own_share, load_layout())


def test_the_tail_is_held_out_with_a_gap(person):
    learnt, tail = person.split()
    assert tail.tolist() == list(range(51, 60))
    assert learnt.tolist() == list(range(51 - GAP_FRAMES))


def test_pictures_next_to_a_reference_are_found(person):
    near = np.flatnonzero(person.near_references())
    assert {4, 20, 30} <= set(near.tolist())
    assert np.abs(near[:, None] - np.array([4, 20, 30])).min(axis=1).max() <= NEAR_FRAMES
    blank = replace(
        person, references=LipReferences(np.zeros_like(person.references.pictures), person.references.points)
    )
    assert not blank.near_references().any()


@pytest.mark.parametrize("own_share", [0.0, 1.0])
def test_references_are_away_from_the_target_and_the_tail_stays_unseen(person, own_share):
    made, random = batches(person, own_share), np.random.default_rng(0)
    learnt, _ = person.split()
    clip = made.clip
    for _ in range(100):
        targets, references = made.pick(clip, random)
        assert set(targets.tolist()) <= set(learnt.tolist())
        if own_share:
            assert references.tolist() == [60, 61, 62], "the person's own, kept behind the pictures"
            assert not person.near_references()[targets].any()
        else:
            assert set(references.tolist()) <= set(learnt.tolist())


def test_a_batch_holds_the_persons_own_references(person):
    made = batches(person, 1.0)
    batch = made.draw(np.random.default_rng(0))
    assert batch.references.shape == (1, 3, 3, 160, 176)
    assert batch.targets.shape == (3, 3, 160, 176)
    unchanged = batches(replace(person), 1.0)
    plain = Looks(recolour_share=0.0, light_share=0.0, compress_share=0.0)
    unchanged.settings = replace(unchanged.settings, looks=plain, crop_jitter_px=0)
    seen = unchanged.draw(np.random.default_rng(0)).references[0, 1].numpy() * 255
    window = person.references.pictures[1, 96:256, 40:216].transpose(2, 0, 1)
    np.testing.assert_allclose(seen, window, atol=0.01)


def test_long_clips_are_thinned():
    present = np.ones(4 * MOST_PICTURES, np.bool_)
    present[:7] = False
    frames = thinned(present)
    assert len(frames) <= MOST_PICTURES
    assert frames[0] == 7
    assert set(np.diff(frames).tolist()) == {4}


def test_a_part_of_a_video_is_followed(person):
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    found = person_of_video(FIXTURE, person.references, start_s=0.4, end_s=1.2, face="only")
    assert found.frames.tolist() == list(range(20))
    assert found.crops.shape == (20, 256, 256, 3)
    lips = found.points[:, load_layout().mouth_gap.reshape(-1)].mean(axis=(0, 1))
    assert 100 < lips[0] < 156
    assert 130 < lips[1] < 200
