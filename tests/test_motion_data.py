"""Sequences for the motion model: pauses, sequences without a voice, sounds under and between the words."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (make test installs it)")

from mytalk.errors import BadInput  # noqa: E402
from mytalk.models.motion_config import MotionConfig  # noqa: E402
from tests.prepared_data import write_data  # noqa: E402
from training.data import list_clips  # noqa: E402
from training.motion_data import MotionBatches, MotionDraw, load_motion_clip  # noqa: E402

FRAMES = 60


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return [load_motion_clip(clip) for clip in list_clips(write_data(tmp_path_factory.mktemp("data")))]


def drawn(clips, batch=24, **settings):
    """Displacements [B, F, n] and what is heard during them [B, 4 F, 80]."""
    config = MotionConfig()
    draw = MotionDraw(batch=batch, frames=FRAMES, change_voice=False, **settings)
    found = MotionBatches(clips, config, draw).draw(np.random.default_rng(0))
    left = found.features.shape[1] - 4 * FRAMES - 2 * config.right_audio_frames
    return found.displacement.numpy(), found.features[:, left : left + 4 * FRAMES].numpy()


def test_where_nobody_speaks_the_mouth_is_closed_whatever_is_heard(clips):
    moved, heard = drawn(clips, empty_share=1.0, sounds=20)
    assert (moved == 0).all()
    loud = heard.max(axis=(1, 2))
    assert (loud < -4).any()
    assert (loud > -4).any()


def test_a_pause_is_eased_into_and_out_of_and_the_rest_stays(clips):
    whole, _ = drawn(clips, pause_share=0.0)
    assert (np.abs(whole).max(axis=2) > 0).mean() > 0.9
    moved, _ = drawn(clips, pause_share=1.0)
    closed = np.abs(moved).max(axis=2) == 0
    assert (closed.sum(axis=1) > 5).all()
    assert 0.15 < closed.mean() < 0.6


def test_a_share_of_sequences_has_pauses(clips):
    moved, _ = drawn(clips, batch=200, pause_share=0.5, empty_share=0.2)
    closed = (np.abs(moved).max(axis=2) == 0).mean(axis=1)
    assert (closed == 1).mean() == pytest.approx(0.2, abs=0.08)
    assert ((closed > 0.1) & (closed < 1)).mean() == pytest.approx(0.4, abs=0.1)


def test_a_sound_under_speech_drowns_nothing(clips):
    _, alone = drawn(clips, pause_share=0.0)
    moved, over = drawn(clips, pause_share=0.0, sounds=20, sound_share=1.0)
    assert np.abs(moved).max() > 0
    assert over.min() >= alone.min() - 1e-3
    assert over.shape == alone.shape
    powers = [np.exp(2 * x).mean(axis=(1, 2)).mean() for x in (alone, over)]
    assert 1.0 < powers[1] / powers[0] < 2.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"empty_share": 1.5}, "empty_share"),
        ({"pause_share": -0.1}, "pause_share"),
        ({"sound_share": 0.5}, "sounds"),
    ],
)
def test_shares_that_are_none_are_refused(settings, words):
    with pytest.raises(BadInput, match=words):
        MotionDraw(**settings)
