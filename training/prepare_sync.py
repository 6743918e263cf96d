"""The A/V offset of every person of a prepared folder: measured over all their clips, then taken out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.clock import FPS
from training.data import identity_of
from training.offsets import LagCurve, Offset, moved_sound, pooled_offset
from training.prepare_video import Report, save_arrays, with_offset

STABLE_CLIPS = 3  # so many clips of a person are measured together: one recording set-up, one offset
STABLE_SPREAD_MS = 60.0  # unless they disagree by more: clips from different places
MIN_TELLING_FRAMES = round(2.5 * FPS)  # a shorter clip alone does not tell its offset


RESOLUTION_MS = 15.0  # a smaller offset is not told from none, and is left alone


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """max_offset_ms: clips whose sound is further off are rejected, and those below min_correlation.

    keep: keep such clips all the same, uncorrected, for a model that does not listen.
    """

    max_offset_ms: float = 200.0
    min_correlation: float = 0.15
    keep: bool = False


@dataclass(frozen=True, slots=True)
class PersonOffset:
    """A row of the offset table: all clips of a person; spread_ms: median distance of single ones from it."""

    identity: str
    clips: int
    offset_ms: float
    correlation: float
    spread_ms: float
    pooled: bool


def _curve(path: Path) -> LagCurve:
    with np.load(path, allow_pickle=False) as data:
        return LagCurve(data["lags_ms"], data["lag_score"], len(data["opening"]))


def person_offset(identity: str, curves: list[LagCurve]) -> PersonOffset:
    """What all clips of one person agree on, and how far single clips are from it."""
    together = pooled_offset(curves)
    apart = [abs(pooled_offset([curve]).offset_ms - together.offset_ms) for curve in curves]
    spread = float(np.median(apart))
    return PersonOffset(
        identity=identity,
        clips=len(curves),
        offset_ms=together.offset_ms,
        correlation=together.correlation,
        spread_ms=spread,
        pooled=len(curves) >= STABLE_CLIPS and spread <= STABLE_SPREAD_MS,
    )


def judged(report: Report, offset: Offset, frames: int, limits: SyncLimits) -> tuple[Report, float]:
    """The clip's report and by how many ms its sound is to be moved."""
    alone_and_short = offset.clips == 1 and frames < MIN_TELLING_FRAMES
    report = with_offset(report, None if alone_and_short else offset.offset_ms, offset.correlation)
    if alone_and_short:
        return report, 0.0
    if offset.correlation < limits.min_correlation:
        words = f"the lips do not follow the sound (correlation {offset.correlation:.2f})"
        return (report, 0.0) if limits.keep else (replace(report, rejected="unaligned", reason=words), 0.0)
    if abs(offset.offset_ms) > limits.max_offset_ms:
        off = f"{abs(offset.offset_ms):.0f} ms {'late' if offset.offset_ms > 0 else 'early'}"
        words = f"A/V offset: the sound is {off}, beyond {limits.max_offset_ms:.0f} ms"
        return (report, 0.0) if limits.keep else (replace(report, rejected="av_offset", reason=words), 0.0)
    return report, offset.offset_ms if abs(offset.offset_ms) >= RESOLUTION_MS else 0.0


def _finish(out: Path, name: str, moved_ms: float | None) -> None:
    """Bring clips/NAME.npz up to date with its offset (None: rejected, and taken away)."""
    staged, final = out / "staged" / f"{name}.npz", out / "clips" / f"{name}.npz"
    if moved_ms is None:
        if final.exists() and not staged.exists():
            final.replace(staged)  # what was measured stays, so that other limits can take it back
        return
    source = staged if staged.exists() else final
    with np.load(source, allow_pickle=False) as data:
        arrays: dict[str, npt.NDArray[np.generic]] = dict(data)
    before_ms = float(arrays.get("av_offset_ms", np.float32(0)))
    heard = arrays.pop("log_mel_heard", arrays["log_mel"]).astype(np.float32)
    if source == staged or abs(before_ms - moved_ms) >= 1:
        arrays["log_mel"] = moved_sound(heard, moved_ms)
        arrays["av_offset_ms"] = np.float32(moved_ms)
        if round(moved_ms / 10):
            arrays["log_mel_heard"] = heard
        save_arrays(final, arrays)
        final.with_suffix(".speech.npy").unlink(missing_ok=True)  # features of the sound where it was before
    staged.unlink(missing_ok=True)


def measure_and_correct(
    out: Path, reports: list[Report], limits: SyncLimits
) -> tuple[list[Report], list[PersonOffset]]:
    """Measure each person's offset, move the sound of their clips, and reject what is out of step.

    reports: of all clips; those that were rejected already pass through. Returns the reports, with offsets,
    and the table of people.
    """
    curves: dict[str, dict[str, LagCurve]] = defaultdict(dict)
    for report in (r for r in reports if r.rejected is None):
        staged, final = out / "staged" / f"{report.name}.npz", out / "clips" / f"{report.name}.npz"
        curves[identity_of(report.name)][report.name] = _curve(staged if staged.exists() else final)
    people = {who: person_offset(who, list(own.values())) for who, own in sorted(curves.items())}
    judged_reports = []
    for report in reports:
        if report.rejected is None:
            who = identity_of(report.name)
            person, curve = people[who], curves[who][report.name]
            offset = (
                Offset(person.offset_ms, person.correlation, person.clips)
                if person.pooled
                else pooled_offset([curve])
            )
            report, moved_ms = judged(report, offset, curve.frames, limits)  # noqa: PLW2901
            _finish(out, report.name, None if report.rejected else moved_ms)
        judged_reports.append(report)
    return judged_reports, list(people.values())
