"""What cameras do to the training pictures."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from training.looks import Looks, compressed, look, recoloured, relit, softened

NEVER = Looks(recolour_share=0.0, soft_share=0.0, light_share=0.0, compress_share=0.0)


def pictures(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((3, 3, 40, 48), dtype=np.float32)


def test_shares_of_nothing_change_nothing():
    given = pictures()
    np.testing.assert_array_equal(look(given, NEVER, np.random.default_rng(0)), given)


@pytest.mark.parametrize("share", ["recolour_share", "light_share", "compress_share"])
def test_every_share_changes_pictures_and_keeps_their_kind(share):
    given = pictures()
    changed = look(
        given,
        Looks(
            **(
                {"recolour_share": 0.0, "soft_share": 0.0, "light_share": 0.0, "compress_share": 0.0}
                | {share: 1.0}
            )
        ),
        np.random.default_rng(0),
    )
    assert changed.shape == given.shape
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert np.abs(changed - given).mean() > 0.005


def test_a_look_is_its_generators_alone():
    looks = Looks(1.0, 1.0, 1.0, 1.0)
    one, two = (look(pictures(), looks, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_colours_change_alike_in_all_pictures_of_a_clip_and_light_does_not():
    same = np.repeat(pictures()[:1], 3, axis=0)
    coloured = recoloured(same, np.random.default_rng(1))
    np.testing.assert_array_equal(coloured[0], coloured[2])
    lit = relit(same, np.random.default_rng(1))
    assert np.abs(lit[0] - lit[2]).mean() > 0.005


def test_soft_and_compressed_pictures_lose_detail():
    given = pictures()

    def detail(x: np.ndarray) -> float:
        return float(np.abs(np.diff(x, axis=-1)).mean())

    assert detail(softened(given, 0.5)) < 0.7 * detail(given)
    assert 0.01 < np.abs(compressed(given, 25) - given).mean() < 0.5
    assert np.abs(compressed(given, 90) - given).mean() < np.abs(compressed(given, 25) - given).mean()
