from __future__ import annotations

import numpy as np
import pytest

from mytalk.actors.faces import FaceTrack, pick_references, track_face
from mytalk.actors.follow import find_face
from mytalk.errors import BadInput
from mytalk.landmarks.normalise import Poses, from_canonical, rest_face, upper_displacement
from mytalk.types import F32
from mytalk.video.media import read_at_rate
from mytalk.video.picture import Picture
from mytalk.video.spool import Spool
from tests.small_actor import LAYOUT, RATE, TALKING_FACE, still_poses, template_face


def tracked(points: F32) -> FaceTrack:
    raw, landmarks = Spool((478, 3)), Spool((478, 3))
    for row in points:
        raw.append(row)
    return track_face(raw, landmarks, LAYOUT, "it")


def test_a_face_that_comes_goes_and_jumps() -> None:
    points = from_canonical(template_face(60), still_poses(60))
    points[10:12] = np.nan  # a blink of the detector
    points[20:40] = np.nan  # away
    points[50:] += np.array([300, 0, 0], np.float32)  # a cut
    track = tracked(points)
    assert track.segments == (slice(0, 20), slice(40, 50), slice(50, 60))
    assert track.present.sum() == 40
    assert len(track.landmarks) == 60
    np.testing.assert_allclose(track.poses.translation[:50, 0], 80, atol=0.5)
    np.testing.assert_allclose(track.poses.translation[50:, 0], 380, atol=0.5)
    assert np.isfinite(track.canonical(slice(None))).all()


def test_a_tiny_face_is_refused() -> None:
    points = from_canonical(template_face(5), still_poses(5, scale=12))
    with pytest.raises(BadInput, match="too small: 12 pixels"):
        tracked(points)


def test_references_differ_in_opening() -> None:
    canonical = template_face(100)
    below = LAYOUT.mouth_gap[1]
    canonical[:, below, 1] += np.linspace(0, 0.4, 100, dtype=np.float32)[:, None]
    track = tracked(from_canonical(canonical, still_poses(100)))
    closed, half, wide = (float(track.opening[i]) for i in pick_references(track, LAYOUT))
    assert closed + 0.1 < half < wide - 0.05


def test_a_covered_mouth_is_no_reference_no_rest_and_fades() -> None:
    canonical = template_face(100)
    canonical[:, LAYOUT.mouth_gap[1], 1] += np.linspace(0.1, 0.4, 100, dtype=np.float32)[:, None]
    covered = np.zeros(100, bool)
    covered[:30] = True
    raw, landmarks = Spool((478, 3)), Spool((478, 3))
    for row in from_canonical(canonical, still_poses(100)):
        raw.append(row)
    track = track_face(raw, landmarks, LAYOUT, "it", covered)
    assert min(pick_references(track, LAYOUT)) >= 30
    bottom = int(LAYOUT.mouth_gap[1][0])
    assert track.rest[bottom, 1] > canonical[30, bottom, 1] - 0.01
    strength = track.strength(4)
    assert (strength[:30] == 0).all()
    np.testing.assert_allclose(strength[30:35], [0.2, 0.4, 0.6, 0.8, 1], atol=1e-6)


def test_a_mouth_that_may_be_covered_is_no_reference_where_another_will_do() -> None:
    canonical = template_face(60)
    canonical[:, LAYOUT.mouth_gap[1], 1] += np.tile(np.linspace(0, 0.4, 20, dtype=np.float32), 3)[:, None]
    doubt = np.zeros(60, np.float32)
    for sure in (slice(0, 20), slice(20, 40), slice(40, 60)):
        doubt[:] = 0.5
        doubt[sure] = 0
        raw, landmarks = Spool((478, 3)), Spool((478, 3))
        for row in from_canonical(canonical, still_poses(60)):
            raw.append(row)
        track = track_face(raw, landmarks, LAYOUT, "it", doubt=doubt)
        assert all(sure.start <= frame < sure.stop for frame in pick_references(track, LAYOUT))


def test_references_do_not_smile() -> None:
    canonical = template_face(100)
    canonical[:, LAYOUT.mouth_gap[1], 1] += np.linspace(0, 0.4, 100, dtype=np.float32)[:, None]
    smiling = np.arange(100) % 2 == 1
    canonical[np.ix_(smiling, LAYOUT.lips, [0])] *= np.float32(1.4)
    picked = pick_references(tracked(from_canonical(canonical, still_poses(100))), LAYOUT)
    assert not smiling[list(picked)].any()


def test_working_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    points = from_canonical(template_face(70), still_poses(70))
    points += random.normal(0, 0.4, points.shape).astype(np.float32)
    points[30:33] = np.nan
    whole = tracked(points)
    monkeypatch.setattr("mytalk.actors.faces.BLOCK", 7)
    parts = tracked(points)
    np.testing.assert_allclose(parts.canonical(slice(None)), whole.canonical(slice(None)), atol=1e-5)
    np.testing.assert_allclose(parts.opening, whole.opening, atol=1e-5)
    np.testing.assert_allclose(parts.rest, whole.rest, atol=1e-5)
    canonical = whole.canonical(slice(None))
    np.testing.assert_allclose(whole.rest, rest_face(canonical, LAYOUT), atol=1e-5)
    np.testing.assert_allclose(
        whole.upper(LAYOUT), upper_displacement(canonical, whole.rest, LAYOUT), atol=1e-6
    )


def test_the_lips_are_not_smoothed_and_do_not_lag() -> None:
    """A lip that opens within one frame is open in that frame; an eye's jitter is gone."""
    random = np.random.default_rng(4)
    canonical = template_face(60)
    canonical[30:, LAYOUT.compact, 1] += np.float32(0.3)
    canonical[:, LAYOUT.upper] += random.normal(0, 0.004, (60, len(LAYOUT.upper), 3)).astype(np.float32)
    track = tracked(from_canonical(canonical, still_poses(60)))
    ours = track.canonical(slice(None))
    lips = ours[:, LAYOUT.lips, 1].mean(axis=1)
    np.testing.assert_allclose(np.diff(lips)[29], 0.3, atol=0.01)
    assert np.abs(np.delete(np.diff(lips), 29)).max() < 0.005
    assert ours[:, LAYOUT.upper].std(axis=0).mean() < 0.6 * canonical[:, LAYOUT.upper].std(axis=0).mean()


def test_our_face_fades_where_the_face_comes_goes_and_turns_away() -> None:
    points = from_canonical(template_face(60), still_poses(60))
    points[10:20] = np.nan
    strength = tracked(points).strength(3)
    assert strength[:7].tolist() == [1.0] * 7
    np.testing.assert_allclose(strength[7:10], [0.75, 0.5, 0.25])
    assert not strength[10:20].any()
    np.testing.assert_allclose(strength[20:24], [0.25, 0.5, 0.75, 1.0])
    assert strength[-1] == 1.0
    turn = np.radians(np.concatenate([np.linspace(0, 70, 30), np.linspace(70, 0, 30)]))
    turned = np.zeros((60, 3, 3), np.float32)
    turned[:, 0, 0] = turned[:, 2, 2] = np.cos(turn)
    turned[:, 0, 2], turned[:, 2, 0], turned[:, 1, 1] = np.sin(turn), -np.sin(turn), 1
    still = still_poses(60)
    seen = tracked(from_canonical(template_face(60), Poses(still.scale, turned, still.translation))).strength(
        3
    )
    assert seen[np.degrees(turn) < 35].min() == 1.0  # it fades on the way from there to 45 degrees
    assert seen[np.degrees(turn) > 48].max() == 0.0


@pytest.mark.mediapipe
def test_a_still_face_does_not_jitter() -> None:
    """A still picture with a camera's noise: what is drawn moves by at most 0.2 % of the eyes' distance."""
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: faces cannot be found")
    random = np.random.default_rng(0)
    still = next(read_at_rate(TALKING_FACE, RATE)).astype(float)
    noisy = [
        Picture.from_rgb(np.clip(still + random.normal(0, 3, still.shape), 0, 255).astype(np.uint8))
        for _ in range(45)
    ]
    raw, landmarks = Spool((478, 3)), Spool((478, 3))
    find_face(noisy, raw, "it")
    detected = raw.read(range(45))
    track = track_face(raw, landmarks, LAYOUT, "it")
    drawn = track.canonical(slice(None))
    drawn[:, LAYOUT.compact] = track.rest[LAYOUT.compact]  # where a closed mouth is drawn
    ours = from_canonical(drawn, track.poses)

    def jitter(points: F32) -> float:
        """Root mean square distance from the mean place, in per cent of the distance between the eyes."""
        off = np.linalg.norm((points - points.mean(axis=0))[..., :2], axis=-1)
        return 100 * float(np.sqrt(np.square(off).mean()) / np.median(track.poses.scale))

    settled = slice(5, None)  # the detector needs some pictures to settle
    lines = sorted({point for contour in LAYOUT.contours for point in contour.points})
    assert jitter(ours[settled][:, lines]) <= 0.2
    assert jitter(detected[settled][:, lines]) > 0.2  # or else this shows nothing
