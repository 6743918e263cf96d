"""One video → prepared clips: the face followed and cut into parts; landmarks, log-mel and crops written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from mytalk.actors.follow import FaceChoice
from mytalk.audio.speech import MEL_FRAMES_PER_FRAME, SILENCE, LogMelState, log_mel
from mytalk.clock import ANALYSIS_RATE, FPS
from mytalk.engines import load_engine
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import crop_matrices
from mytalk.render.compose import crop
from mytalk.types import F32, U8
from mytalk.video.media import probe_video, read_at_rate, read_speech
from training.companions import follow_companion
from training.offsets import lag_curve, loudness
from training.streamed import predicted_opening
from training.tracks import RATE, Track, follow

DETECTED = "mediapipe478"  # what there is a detector for
MIN_FRAMES = FPS  # a shorter stretch with the face is not used
FAINT = SILENCE + 1.5  # nothing that quiet is speech
SPEECH_RANGE = 1.5  # log units (13 dB) between loud and soft: syllables; hum and noise keep their level


@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """How videos are prepared.

    every: of the face crops, one in so many is kept. part_frames: longer clips are cut into parts of so many
    frames. face: which of several people. probe: what lips are compared with to measure the A/V offset, the
    bundle of a motion model or "" for the loudness envelope. layout: of the landmarks; ``mediapipe478`` is
    detected, another one is read from NAME.npz beside each video.
    """

    every: int = 2
    part_frames: int = 500
    face: FaceChoice = "only"
    probe: str = ""
    layout: str = DETECTED


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one clip: rejected is a code (None: kept) and reason says it in words."""

    name: str
    video: str
    frames: int
    rejected: str | None = None
    reason: str | None = None
    offset_ms: float | None = None
    correlation: float | None = None


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have ``write`` fill a file that appears under its name only when all of it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_arrays(path: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    """``np.savez``, all or nothing."""

    def write(file: IO[bytes]) -> None:
        np.savez(file, **arrays)

    write_atomically(path, write)


@cache
def _engine(bundle: str) -> Engine:
    """The motion model of this worker process, loaded once."""
    return load_engine("onnx", Path(bundle), threads=1)


def _hear(video: Path) -> F32:
    """Log-mel [n, 80] of a video; ``BadInput`` (no_sound, no_speech) when there is nothing to learn from."""
    try:
        sound = np.concatenate(list(read_speech(video, ANALYSIS_RATE))).astype(np.float32) / 32768
    except BadInput as error:
        raise BadInput(str(error), "no_sound") from error
    mel = log_mel(LogMelState.initial(), sound)[1]
    soft, loud = np.quantile(mel.mean(axis=1), (0.05, 0.95)) if len(mel) else (SILENCE, SILENCE)
    if loud < FAINT or loud - soft < SPEECH_RANGE:
        raise BadInput(f"{video}: no speech: the sound is silent, or keeps its level", "no_speech")
    return mel


def _parts(segments: tuple[slice, ...], part_frames: int) -> list[slice]:
    """Stretches with the face, without a cut inside, in pieces that are about equally long."""
    parts = []
    for segment in segments:
        frames = segment.stop - segment.start
        if frames < MIN_FRAMES:
            continue
        edges = np.linspace(segment.start, segment.stop, -(-frames // part_frames) + 1).round().astype(int)
        parts += [slice(int(a), int(b)) for a, b in pairwise(edges)]
    return parts


def _arrays(track: Track, part: slice, mel: F32, config: PrepareConfig) -> dict[str, npt.NDArray[np.generic]]:
    """What is written of a part, except the crops; ``log_mel`` as heard, not yet moved."""
    poses, canonical, frames = track.poses.select(part), track.canonical[part], part.stop - part.start
    heard = mel[part.start * MEL_FRAMES_PER_FRAME : part.stop * MEL_FRAMES_PER_FRAME]
    log_mel_full = np.full((frames * MEL_FRAMES_PER_FRAME, mel.shape[1]), SILENCE, np.float32)
    log_mel_full[: len(heard)] = heard
    said = (
        predicted_opening(_engine(config.probe), log_mel_full, frames)
        if config.probe
        else loudness(log_mel_full, frames)
    )
    curve = lag_curve(said, track.opening[part])
    return {
        "points": track.points()[part, :, :2],
        "matrices": crop_matrices(poses),
        "canonical": canonical,
        "rest": track.face.rest,
        "opening": track.opening[part],
        "log_mel": log_mel_full,
        "picked": np.arange(0, frames, config.every),
        "first_frame": np.int64(part.start),
        "lags_ms": curve.lags_ms,
        "lag_score": curve.score,
    }


def _write_parts(
    video: Path, name: str, out: Path, *, track: Track, mel: F32, config: PrepareConfig
) -> list[Report]:
    parts = _parts(track.face.segments, config.part_frames)
    if not parts:
        longest = max((s.stop - s.start for s in track.face.segments), default=0)
        raise BadInput(
            f"{video}: the face is in view for {longest} frames at most, not {MIN_FRAMES}", "too_short"
        )
    whole = len(parts) == 1
    pictures, at, reports = read_at_rate(video, RATE), 0, []
    for number, part in enumerate(parts):
        clip = name if whole else f"{name}__p{number:03d}"
        arrays = _arrays(track, part, mel, config)
        wanted, matrices = (
            set((arrays["picked"] + part.start).tolist()),
            arrays["matrices"].astype(np.float32),
        )
        crops: list[U8] = []
        while at < part.stop and (picture := next(pictures, None)) is not None:
            if at in wanted:
                crops.append(crop(picture, matrices[at - part.start]))
            at += 1
        stacked = np.stack(crops)
        write_atomically(out / "clips" / f"{clip}.crops.npy", lambda file, data=stacked: np.save(file, data))
        save_arrays(out / "staged" / f"{clip}.npz", arrays)
        reports.append(Report(clip, str(video), part.stop - part.start))
    return reports


def prepare_video(video: Path, name: str, out: Path, config: PrepareConfig) -> list[Report]:
    """Prepare one video; what it gave stands in ``done/NAME.json``, and is not made again.

    Writes clips/CLIP.crops.npy and staged/CLIP.npz. A video that cannot be used gives one report with the
    reason. Raises ``OSError`` when the disk is full.
    """
    record = out / "done" / f"{name}.json"
    if record.is_file():
        return [Report(**row) for row in json.loads(record.read_text(encoding="utf-8"))]
    try:
        probe_video(video)
        mel = _hear(video)
        # Pictures that go on after the sound has ended teach nothing.
        heard = -(-len(mel) // MEL_FRAMES_PER_FRAME)
        if config.layout == DETECTED:
            track = follow(video, config.face, heard)
        else:
            track = follow_companion(video, load_layout(config.layout), heard)
        reports = _write_parts(video, name, out, track=track, mel=mel, config=config)
    except BadInput as error:
        if error.code == "cannot_write":  # a full disk is not the video's fault
            raise
        code = "unreadable" if error.code == "bad_input" else error.code
        reports = [Report(name, str(video), 0, code, str(error).removeprefix(f"{video}: "))]
    rows = json.dumps([asdict(report) for report in reports]).encode()
    write_atomically(record, lambda file: file.write(rows))
    return reports


def with_offset(report: Report, offset_ms: float | None, correlation: float | None) -> Report:
    """The report of a clip with its measured offset."""
    return replace(
        report,
        offset_ms=None if offset_ms is None else round(offset_ms, 1),
        correlation=None if correlation is None else round(correlation, 3),
    )
