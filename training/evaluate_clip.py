"""The figures of one clip: what a system shows for it, against the clip itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mytalk.clock import ANALYSIS_SAMPLES_PER_FRAME
from mytalk.engines.engine import Engine
from mytalk.types import F32, U8
from training.metrics_motion import closed_below, closed_spans, closing_spans, landmark_distance_pct
from training.metrics_picture import (
    composite,
    flicker_ratio,
    lip_mask,
    psnr_db,
    seam_ratio,
    sharpness_ratio,
    ssim,
)
from training.networks import FaceEmbedder, FidFeatures, Lpips
from training.offsets import correlation, lag_curve, loudness, pooled_offset
from training.reels import Shown, Source, mel_of
from training.streamed import Stream, opening, predicted_opening, stream_motion
from training.syncnet import SyncNet, sync_scores

KEYS = (
    "psnr",
    "ssim",
    "lip_psnr",
    "lip_ssim",
    "lpips",
    "fid",
    "sync_conf",
    "sync_dist",
    "id_sim",
    "landmark_distance_pct",
    "mouth_correlation",
    "av_offset_ms",
    "closure_rate",
    "flicker_ratio",
    "seam_ratio",
    "lip_sharpness_ratio",
)
SAME_SOUND = 0.5  # correlation of loudness from which two sound tracks are the same one, moved

Row = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Networks:
    """Scoring networks that were given; None: their figures are null."""

    lpips: Lpips | None = None
    fid: FidFeatures | None = None
    face: FaceEmbedder | None = None
    sync: SyncNet | None = None

    def missing(self) -> dict[str, str]:
        """Why figures are null, by key."""
        reasons = {}
        if self.lpips is None:
            reasons["lpips"] = "needs AlexNet weights: --lpips-weights"
        if self.fid is None:
            reasons["fid"] = "needs Inception weights: --fid-weights"
        if self.face is None:
            reasons["id_sim"] = "needs a face-embedding network: --face-onnx"
        if self.sync is None:
            reasons["sync_conf"] = reasons["sync_dist"] = "needs SyncNet weights: --syncnet-weights"
        return reasons


def picture_row(source: Source, shown: Shown, networks: Networks) -> tuple[Row, U8, U8]:
    """Picture metrics of a clip whose own pictures are the truth, and the composites they were taken from."""
    count = shown.frames
    use = source.scored[:count]
    true, made = source.cuts.crops[:count], composite(shown.cuts.crops, source.cuts.crops[:count])
    scored_true, scored_made = true[use], made[use]
    whole, lips = ssim(scored_made, scored_true, lip_mask())
    row: Row = {
        "psnr": psnr_db(scored_made, scored_true),
        "ssim": whole,
        "lip_psnr": psnr_db(scored_made, scored_true, lip_mask()),
        "lip_ssim": lips,
        "lpips": None if networks.lpips is None else networks.lpips(scored_made, scored_true),
        "lip_sharpness_ratio": sharpness_ratio(scored_made, scored_true),
        "flicker_ratio": flicker_ratio(made, true),
        "seam_ratio": seam_ratio(made, true),
    }
    return row, scored_made, scored_true


def _found(source: Source, shown: Shown) -> tuple[F32, F32]:
    """Mouth openings of system and source in the frames where both have a face; the rest is interpolated."""
    good = np.isfinite(shown.opening)
    frames = np.arange(shown.frames)
    if not good.any():
        return np.zeros(shown.frames, np.float32), source.track.opening[: shown.frames]
    filled = np.interp(frames, frames[good], shown.opening[good]).astype(np.float32)
    return filled, source.track.opening[: shown.frames]


def sound_delay_ms(shown: F32 | None, driving: F32) -> float:
    """By how much a result's own sound lags the speech it was made from; 0 without one, or another one."""
    if shown is None:
        return 0.0
    frames = min(len(shown), len(driving)) // ANALYSIS_SAMPLES_PER_FRAME
    made, asked = (loudness(mel_of(sound, frames), frames) for sound in (shown, driving))
    # The silence that a moved track begins or ends with would outweigh all syllables.
    floor = float(np.quantile(asked, 0.1))
    curve = lag_curve(np.maximum(made, floor), np.maximum(asked, floor))
    found = pooled_offset([curve])
    return found.offset_ms if found.correlation > SAME_SOUND else 0.0


def paired_motion_row(source: Source, shown: Shown) -> Row:
    """Motion metrics against the clip's own mouth; what is shown is detected, ours and others' alike."""
    made, true = (opened[source.part] for opened in _found(source, shown))
    good = np.isfinite(shown.opening) & source.track.present[: shown.frames] & source.scored[: shown.frames]
    distance = None
    if good.any():
        poses = source.track.poses.select(np.flatnonzero(good))
        distance = landmark_distance_pct(shown.points[good], source.points[: shown.frames][good], poses)
    # The source's mouth stands for the speech: against it, a mouth that is late is a sound that is early.
    curve = lag_curve(true, made)
    return {
        "landmark_distance_pct": distance,
        "mouth_correlation": correlation(made, true),
        "av_offset_ms": pooled_offset([curve]).offset_ms + sound_delay_ms(shown.speech, source.speech),
    }


def unpaired_motion_row(engine: Engine, shown: Shown, driving: F32, source: Source) -> Row:
    """Offset of what is shown against what the speech alone asks for: there is no true mouth."""
    made, _ = _found(source, shown)
    said = predicted_opening(engine, mel_of(driving, shown.frames), shown.frames)
    offset = pooled_offset([lag_curve(said, made)]).offset_ms
    return {"av_offset_ms": offset + sound_delay_ms(shown.speech, driving)}


def closure(source: Source, spoken: Path, shown: Shown) -> tuple[float | None, float | None]:
    """Share of p, b and m (words with them) at which the lips close: of the system, and of the source itself.

    spoken: the video whose speech was said.
    """
    spans = closing_spans(spoken)
    if not spans:
        return None, None
    made, true = _found(source, shown)
    limit = closed_below(source.track.opening)
    closed, within = closed_spans(made, spans, limit)
    own, _ = closed_spans(true, spans, limit)
    return (closed / within, own / within) if within else (None, None)


def speech_motion_rows(engine: Engine, clips: list[Source], stream: Stream) -> list[dict[str, float]]:
    """Mouth correlation when speech alone drives the model, by clip, with its baselines.

    The upper face and the shuffled speech come from the next clip; a clip that is alone gets a still upper
    face and its own speech backwards.
    """
    rows = []
    for index, clip in enumerate(clips):
        other = clips[(index + 1) % len(clips)]
        alone = other.name == clip.name
        upper = np.zeros_like(clip.upper) if alone else np.resize(other.upper, clip.upper.shape)
        wrong = clip.log_mel[::-1].copy() if alone else np.resize(other.log_mel, clip.log_mel.shape)
        identity = engine.identity(np.ascontiguousarray(clip.rest[:, :2]))
        ours, shuffled = (
            opening(stream_motion(engine, mel, upper, identity, stream), clip.rest)
            for mel in (clip.log_mel, wrong)
        )
        true, part = clip.track.opening[clip.part], clip.part
        rows.append(
            {
                "mouth_correlation": correlation(ours[part], true),
                "shuffled_speech": correlation(shuffled[part], true),
                "loudness": correlation(loudness(clip.log_mel, clip.frames)[part], true),
                "opening_ratio": float(ours[part].std() / max(float(true.std()), 1e-6)),
            }
        )
    return rows


def network_row(source: Source, shown: Shown, speech: F32, networks: Networks) -> Row:
    """Lip-sync and identity scores by networks."""
    row: Row = {"sync_conf": None, "sync_dist": None, "id_sim": None}
    if networks.sync is not None and (scores := sync_scores(networks.sync, shown.cuts.sync, speech)):
        row["sync_conf"], row["sync_dist"] = scores
    if networks.face is not None:
        true = source.cuts.faces[: len(shown.cuts.faces)]
        row["id_sim"] = networks.face.similarity(shown.cuts.faces, true)
    return row
