"""Landmarks beside a video: both ways to write them, the pose that they give, and what is refused."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mediapipe", reason="MediaPipe is not installed (make test installs it)")

from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.video.out import VideoWriter
from training.companions import follow_companion, read_companion

FIXTURE = Path(__file__).parent / "data" / "talking_face.mp4"
LAYOUT = load_layout("dense669")
FRAMES = 50


def made_up_landmarks(frames=FRAMES):
    """A head that sways in a 256×256 picture and opens its mouth twice a second: float32 [F, 669, 2]."""
    time = np.arange(frames) / 25
    face = np.repeat(LAYOUT.template[None, :, :2], frames, axis=0)
    lower = np.isin(np.arange(LAYOUT.points), LAYOUT.mouth_gap[1])
    face[:, lower, 1] += (0.1 * (1 - np.cos(4 * np.pi * time)))[:, None]
    sway = np.stack([128 + 4 * np.sin(2 * time), 90 + 2 * np.cos(3 * time)], axis=1)
    return (face * 40 + sway[:, None]).astype(np.float32)


def video_with(folder, **arrays):
    video = folder / "head.mp4"
    shutil.copy(FIXTURE, video)
    np.savez(folder / "head.npz", **arrays)
    return video


def test_running_sums_are_the_same_landmarks(tmp_path):
    points = made_up_landmarks()
    steps = np.diff(np.round(points * 32).astype(np.int32), axis=0, prepend=0).astype(np.int16)
    video = video_with(tmp_path, landmarks_delta32=steps)
    np.testing.assert_allclose(read_companion(video, LAYOUT), points, atol=1 / 64)
    np.savez(tmp_path / "head.npz", landmarks=points)
    np.testing.assert_array_equal(read_companion(video, LAYOUT), points)


def test_a_head_that_sways_keeps_its_canonical_face(tmp_path):
    track = follow_companion(video_with(tmp_path, landmarks=made_up_landmarks()), LAYOUT, frames=40)
    assert track.canonical.shape == (40, 669, 3)
    assert track.face.segments == (slice(0, 40),)
    still = track.canonical[:, LAYOUT.rigid, :2]
    assert np.abs(still - still.mean(axis=0)).max() < 0.01
    opening = 0.1 * (1 - np.cos(4 * np.pi * np.arange(40) / 25))
    assert np.corrcoef(track.opening, opening)[0, 1] > 0.99
    np.testing.assert_allclose(track.points()[..., :2], made_up_landmarks()[:40], atol=0.5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"visible": np.zeros(3)}, "holds no landmarks"),
        ({"landmarks": np.zeros((50, 478, 2))}, r"must hold finite \[F, 669, 2\]"),
        ({"landmarks": np.full((50, 669, 2), np.nan)}, "finite"),
        ({"landmarks": np.array([{}])}, "holds no landmarks"),
    ],
)
def test_files_that_hold_no_landmarks_are_refused(tmp_path, arrays, message):
    with pytest.raises(BadInput, match=message) as caught:
        follow_companion(video_with(tmp_path, **arrays), LAYOUT)
    assert caught.value.code == "no_landmarks"
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_another_rate_are_refused(tmp_path):
    video = video_with(tmp_path, landmarks=made_up_landmarks())
    video.with_suffix(".npz").unlink()
    with pytest.raises(BadInput, match=r"no head\.npz with dense669 landmarks beside it"):
        read_companion(video, LAYOUT)
    with VideoWriter(video, width=64, height=64, fps=Fraction(30), crf=30, sound_rate_hz=None) as writer:
        for _ in range(10):
            writer.add_picture(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(BadInput, match="30 frames/s"):
        follow_companion(video, LAYOUT)
