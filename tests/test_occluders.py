"""Things in front of faces, made up for training."""

from __future__ import annotations

import numpy as np

from training.occluders import cover, occluded


def pictures(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, 60, 66), dtype=np.float32)


def test_a_share_of_nothing_changes_nothing():
    given = pictures()
    out, seen = occluded(given, 0.0, np.random.default_rng(1))
    np.testing.assert_array_equal(out, given)
    assert (seen == 1).all()


def test_what_is_seen_is_the_picture_and_what_is_hidden_is_not():
    given = pictures()
    out, seen = occluded(given, 1.0, np.random.default_rng(2))
    assert out.dtype == seen.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 1
    here, gone = np.repeat(seen[:, None] == 1, 3, axis=1), np.repeat(seen[:, None] == 0, 3, axis=1)
    np.testing.assert_array_equal(out[here], given[here])
    assert np.abs(out[gone] - given[gone]).mean() > 0.1


def test_a_share_of_the_pictures_is_hidden_in_part():
    random = np.random.default_rng(3)
    hidden = [1 - occluded(pictures(), 0.3, random)[1].mean(axis=(1, 2)) for _ in range(100)]
    shares = np.concatenate(hidden)
    assert 0.2 < (shares > 0).mean() < 0.35  # some reach in from beyond a corner and miss the picture
    assert shares.max() < 0.8


def test_something_reaches_in_from_the_edge():
    random = np.random.default_rng(4)
    for _ in range(50):
        found = cover(60, 66, random)
        edges = np.concatenate([found[0], found[-1], found[:, 0], found[:, -1]])
        assert edges.max() > 0 or found.max() == 0


def test_it_is_its_generators_alone():
    one, two = (occluded(pictures(), 0.5, np.random.default_rng(5))[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
