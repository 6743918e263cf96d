"""How often each source is drawn: by weight, by size, a user's own, and what leaves nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from mytalk.errors import BadInput
from training.sources import SourceDraw


@dataclass(frozen=True)
class Named:
    source: str
    number: int


CLIPS = [Named("grid", n) for n in range(6)] + [Named("mine", n) for n in range(2)]


def drawn(draw, count=4000):
    random = np.random.default_rng(0)
    picked = [draw.pick(random) for _ in range(count)]
    assert set(Counter(picked)) == {clip for clip in CLIPS if draw.shares[clip.source] > 0}
    return {source: n / count for source, n in Counter(clip.source for clip in picked).items()}


def test_without_weights_every_clip_is_drawn_alike():
    draw = SourceDraw(CLIPS, {})
    assert draw.shares == {"grid": 0.75, "mine": 0.25}
    assert drawn(draw)["mine"] == pytest.approx(0.25, abs=0.03)
    assert draw.told() == "grid 75 %, mine 25 %"


def test_weights_count_for_the_sources_that_are_there():
    draw = SourceDraw(CLIPS, {"grid": 1.0, "mine": 3.0, "actors": 96.0})
    assert drawn(draw)["mine"] == pytest.approx(0.75, abs=0.03)


def test_a_source_that_is_not_named_is_drawn_too_unless_told_otherwise():
    assert SourceDraw(CLIPS, {"grid": 0.25}).shares == {"grid": 0.2, "mine": 0.8}
    assert drawn(SourceDraw(CLIPS, {"grid": 0.25}, other=0.0)) == {"grid": 1.0}


@pytest.mark.parametrize(
    ("clips", "weights", "other", "message"),
    [
        (CLIPS, {"grid": -1.0}, 1.0, "negative"),
        (CLIPS, {"grid": 0.0}, 0.0, "sources are grid, mine"),
        ([], {}, 1.0, "sources are none"),
    ],
)
def test_nothing_to_draw_is_told(clips, weights, other, message):
    with pytest.raises(BadInput, match=message):
        SourceDraw(clips, weights, other)
