"""Offsets of people and clips: pooled, corrected once, rejected beyond limits, taken back."""

from __future__ import annotations

import numpy as np
import pytest

from tests.test_offsets import babble
from training.offsets import STEP_MS, lag_curve
from training.prepare_sync import SyncLimits, measure_and_correct, person_offset
from training.prepare_video import Report, save_arrays


def stage(out, name: str, late_frames: int, seed: int, frames: int = 100) -> Report:
    lips = babble(frames, seed)
    log_mel = np.repeat(np.roll(lips, late_frames), 4)[:, None] * np.ones((1, 80), np.float32) - 9
    curve = lag_curve(np.roll(lips, late_frames), lips)
    arrays = {"opening": lips, "log_mel": log_mel.astype(np.float32)}
    save_arrays(out / "staged" / f"{name}.npz", arrays | {"lags_ms": curve.lags_ms, "lag_score": curve.score})
    return Report(name, "x.mp4", frames)


def moved_ms(out, name: str) -> float:
    with np.load(out / "clips" / f"{name}.npz") as data:
        return float(data["av_offset_ms"])


def test_a_persons_clips_are_measured_together_unless_they_disagree():
    lips = [babble(100, seed) for seed in range(6)]
    steady = person_offset("grid/s1", [lag_curve(np.roll(x, 2), x) for x in lips])
    assert steady.pooled
    assert steady.offset_ms == pytest.approx(80, abs=5)
    mixed = person_offset(
        "web/p", [lag_curve(np.roll(x, late), x) for x, late in zip(lips, (0, 0, 7, 7, -7, -7), strict=True)]
    )
    assert not mixed.pooled


def test_sound_is_moved_once_and_back_from_what_was_heard(tmp_path):
    reports = [stage(tmp_path, f"grid__s1__{n}", 3, n) for n in range(3)]
    judged, people = measure_and_correct(tmp_path, reports, SyncLimits())
    assert people[0].offset_ms == pytest.approx(120, abs=5)
    assert all(r.offset_ms == pytest.approx(120, abs=5) for r in judged)
    assert moved_ms(tmp_path, "grid__s1__0") == pytest.approx(120, abs=5)
    with np.load(tmp_path / "clips" / "grid__s1__0.npz") as data:
        rows = round(moved_ms(tmp_path, "grid__s1__0") / STEP_MS)
        np.testing.assert_array_equal(data["log_mel"][:-rows], data["log_mel_heard"][rows:])
        once = data["log_mel"]
    measure_and_correct(tmp_path, reports, SyncLimits())
    with np.load(tmp_path / "clips" / "grid__s1__0.npz") as data:
        np.testing.assert_array_equal(data["log_mel"], once)


def test_limits_reject_and_keep(tmp_path):
    still = stage(tmp_path, "web__still__a", 0, 0)
    with np.load(tmp_path / "staged" / "web__still__a.npz") as data:
        arrays = dict(data)
    save_arrays(tmp_path / "staged" / "web__still__a.npz", arrays | {"lag_score": 0.01 * arrays["lag_score"]})
    reports = [stage(tmp_path, "web__late__a", 8, 1), still, stage(tmp_path, "web__good__a", 0, 2)]
    reports.append(stage(tmp_path, "web__short__a", 8, 3, frames=40))
    reports.append(Report("web__gone__a", "y.mp4", 0, "no_face", "no face"))
    judged, _ = measure_and_correct(tmp_path, reports, SyncLimits())
    assert {r.name: r.rejected for r in judged} == {
        "web__late__a": "av_offset",
        "web__still__a": "unaligned",
        "web__good__a": None,
        "web__short__a": None,  # too short to tell
        "web__gone__a": "no_face",
    }
    assert "320 ms late, beyond 200 ms" in (judged[0].reason or "")
    assert moved_ms(tmp_path, "web__good__a") == moved_ms(tmp_path, "web__short__a") == 0
    kept, _ = measure_and_correct(tmp_path, reports, SyncLimits(keep=True))
    assert [r.rejected for r in kept] == [None, None, None, None, "no_face"]
    assert moved_ms(tmp_path, "web__late__a") == 0  # known to be off, for a model that does not listen
