"""Clips as they are scored: parts, references, cuts, other sizes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mediapipe", reason="MediaPipe is not installed (make test installs it)")
pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.engines import default_bundle, load_engine
from mytalk.errors import BadInput
from mytalk.landmarks.normalise import crop_matrices, from_canonical
from mytalk.video.media import read_at_rate
from tests.small_actor import still_poses, template_face
from training.metrics_picture import composite, psnr_db
from training.networks import ARCFACE_POINTS
from training.reels import Wanted, cut_all, fitted, load_source, part_of, show
from training.render import true_landmark_pictures
from training.tracks import RATE

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"


@pytest.fixture(scope="module")
def source():
    return load_source(FIXTURE, "face", Wanted(), "second-half")


def test_parts_of_a_clip():
    assert part_of(50, "whole") == slice(0, 50)
    assert part_of(51, "first-half") == slice(0, 25)
    assert part_of(51, "second-half") == slice(25, 51)
    with pytest.raises(BadInput, match="unknown part"):
        part_of(5, "third")


def test_the_second_half_is_scored_with_references_of_the_first(source):
    assert source.frames == 50
    assert not source.scored[:25].any()
    first_half = {crop.tobytes() for crop in source.cuts.crops[:25]}
    assert all(picture.tobytes() in first_half for picture in source.references.pictures)
    assert source.references.points.shape == (3, 478, 2)
    assert source.log_mel.shape == (200, 80)


def test_references_and_their_neighbours_are_left_out():
    whole = load_source(FIXTURE, "face", Wanted())
    assert 35 <= whole.scored.sum() <= 44
    lost = np.flatnonzero(~whole.scored)
    kept = {whole.cuts.crops[i].tobytes() for i in np.flatnonzero(whole.scored)}
    assert len(lost) >= 6
    assert not any(picture.tobytes() in kept for picture in whole.references.pictures)


def test_what_is_shown_is_cut_as_the_source_is(source):
    same = show(source, read_at_rate(FIXTURE, RATE), Wanted(), None)
    np.testing.assert_array_equal(same.cuts.crops, source.cuts.crops)
    assert np.abs(same.opening - source.track.opening).mean() < 0.01
    larger = (np.repeat(np.repeat(p, 2, 0), 2, 1) for p in read_at_rate(FIXTURE, RATE))
    shrunk = show(source, fitted(larger, source.size), Wanted(), None)
    assert psnr_db(composite(shrunk.cuts.crops, source.cuts.crops), source.cuts.crops) > 30
    black = show(source, (np.zeros((256, 256, 3), np.uint8) for _ in range(10)), Wanted(), None)
    assert black.frames == 10
    assert np.isnan(black.opening).all()
    with pytest.raises(BadInput, match="no picture"):
        show(source, iter(()), Wanted(), None)


def test_faces_and_sync_cuts_hold_the_face_where_the_networks_expect_it():
    poses = still_poses(6, scale=40.0, centre=(120.0, 90.0))
    points = from_canonical(template_face(6), poses)
    picture = np.zeros((240, 240, 3), np.uint8)
    for name, point in zip(
        "abcde",
        (points[0, [33, 133]].mean(0), points[0, [362, 263]].mean(0), *points[0, [1, 61, 291]]),
        strict=True,
    ):
        x, y = np.round(point[:2]).astype(int)
        picture[y - 1 : y + 2, x - 1 : x + 2] = ord(name)
    cuts = cut_all([picture] * 6, points, crop_matrices(poses), Wanted(faces=True, sync=True))
    assert cuts.faces.shape == (2, 112, 112, 3)  # one in five frames
    assert cuts.sync.shape == (6, 224, 224, 3)
    for (x, y), name in zip(ARCFACE_POINTS, "abcde", strict=True):
        around = cuts.faces[0, int(y) - 9 : int(y) + 10, int(x) - 9 : int(x) + 10]
        assert around.max() > 0.5 * ord(name), name


def test_lips_from_true_landmarks_are_near_the_truth(source):
    engine = load_engine("onnx", default_bundle(), threads=1)
    shown = show(source, islice(true_landmark_pictures(engine, source), 8), Wanted(), None)
    true = source.cuts.crops[:8]
    assert 24 < psnr_db(composite(shown.cuts.crops, true), true) < 60
