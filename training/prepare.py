"""Folders of talking videos → training clips: landmarks, poses, log-mel and face crops.

``python -m training.prepare VIDEO_DIR --out DATA`` works in parallel, skips what is already there, and ends
with a report of what was rejected and why.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.progress import track

from mytalk.clock import ANALYSIS_RATE, FPS
from mytalk.compose import crop
from mytalk.errors import BadInput, MyTalkError
from mytalk.landmarks.detect import POINTS, detect_faces
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import (
    crop_matrices,
    fit_poses,
    mouth_opening,
    rest_face,
    smooth_poses,
    to_canonical,
)
from mytalk.speech import LogMelState, log_mel
from mytalk.types import F32, U8

MIN_FRAMES = 25
MAX_MISSING_SHARE = 0.05
SMALL_PICTURE_PX = 400  # smaller pictures are doubled for the detector


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one video: ``rejected`` is the reason, or None when it was kept."""

    name: str
    frames: int
    rejected: str | None


def clip_name(video: Path, root: Path) -> str:
    """Unique flat name of a video below ``root``: folders joined by ``__``."""
    return "__".join(video.relative_to(root).with_suffix("").parts)


def read_frames(video: Path) -> list[U8]:
    """All pictures of a 25 fps video, uint8 RGB [H, W, 3]."""
    with av.open(str(video)) as container:
        if not container.streams.video:
            raise BadInput("no picture stream")
        rate = container.streams.video[0].average_rate
        if rate is None or abs(float(rate) - FPS) > 0.01:
            raise BadInput(f"{rate} frames/s, not {FPS}")
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_speech(video: Path) -> F32:
    """The sound of a video as float32 [S], 16 kHz mono, -1..1."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=ANALYSIS_RATE)
    pieces = []
    with av.open(str(video)) as container:
        if not container.streams.audio:
            raise BadInput("no sound stream")
        for frame in container.decode(audio=0):
            pieces += [out.to_ndarray()[0] for out in resampler.resample(frame)]
        pieces += [out.to_ndarray()[0] for out in resampler.resample(None)]
    if not pieces:
        raise BadInput("empty sound stream")
    return np.concatenate(pieces).astype(np.float32) / 32768.0


def _detect(frames: list[U8], cache: Path) -> F32:
    if cache.exists():
        return np.load(cache)
    height, width = frames[0].shape[:2]
    factor = 2 if min(height, width) < SMALL_PICTURE_PX else 1
    big = (
        np.asarray(Image.fromarray(frame).resize((width * factor, height * factor), Image.Resampling.BICUBIC))
        for frame in frames
    )
    missing = np.full((POINTS, 3), np.nan, np.float32)
    points = np.stack([faces[0].points / factor if faces else missing for faces in detect_faces(big)])
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, points)
    return points


def fill_missing(points: F32) -> F32:
    """Points of frames without a face, interpolated in time; ``BadInput`` when too many are missing."""
    found = np.isfinite(points).all(axis=(1, 2))
    if found.sum() < MIN_FRAMES or (~found).mean() > MAX_MISSING_SHARE:
        raise BadInput(f"face found in {found.sum()} of {len(points)} frames only")
    index = np.arange(len(points))
    flat = points.reshape(len(points), -1)
    filled = np.stack([np.interp(index, index[found], column[found]) for column in flat.T], axis=1)
    return filled.reshape(points.shape).astype(np.float32)


def prepare_clip(video: Path, name: str, out: Path, every: int) -> Report:
    """Prepare one video; writes NAME.npz (motion) and NAME.crops.npy (appearance) or reports why not."""
    target, crops_target = out / "clips" / f"{name}.npz", out / "clips" / f"{name}.crops.npy"
    if target.exists() and crops_target.exists():
        return Report(name, len(np.load(target)["points"]), None)
    try:
        frames = read_frames(video)
        layout = load_layout()
        points = fill_missing(_detect(frames, out / "lm" / f"{name}.npy"))
        frames = frames[: len(points)]
        mel = log_mel(LogMelState.initial(), read_speech(video))[1]
    except (MyTalkError, av.FFmpegError, OSError, IndexError) as error:
        return Report(name, 0, str(error) or type(error).__name__)
    poses = smooth_poses(fit_poses(points, layout))
    canonical = to_canonical(points, poses)
    matrices = crop_matrices(poses)
    picked = np.arange(0, len(frames), every)
    crops = np.stack([crop(frames[i], matrices[i]) for i in picked])
    crops_target.parent.mkdir(parents=True, exist_ok=True)
    np.save(crops_target, crops)
    np.savez(
        target,
        points=points[:, :, :2],
        matrices=matrices,
        canonical=canonical.astype(np.float32),
        rest=rest_face(canonical, layout),
        opening=mouth_opening(canonical, layout),
        log_mel=mel,
        picked=picked,
    )
    return Report(name, len(frames), None)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "videos", type=Path, help="folder that is searched for .mp4 files (25 fps, with sound)"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the clips and report.json go")
    parser.add_argument("--include", nargs="*", default=[""], help="only names that start with one of these")
    parser.add_argument("--every", type=int, default=2, help="keep every n-th face crop (default 2)")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    videos = sorted(args.videos.rglob("*.mp4"))
    names = {clip_name(v, args.videos): v for v in videos}
    names = {n: v for n, v in names.items() if n.startswith(tuple(args.include))}
    if not names:
        print(f"training.prepare: no .mp4 under {args.videos}", file=sys.stderr)
        return 1
    reports = []
    # Forked workers would inherit the locks of threads that video and audio libraries started here.
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(prepare_clip, v, n, args.out, args.every) for n, v in names.items()]
        for job in track(as_completed(jobs), total=len(jobs), description="clips"):
            reports.append(job.result())
    reports.sort(key=lambda report: report.name)
    (args.out / "report.json").write_text(json.dumps([asdict(r) for r in reports], indent=1))
    rejected = [r for r in reports if r.rejected]
    frames = sum(r.frames for r in reports)
    print(f"{len(reports) - len(rejected)} clips, {frames} frames; {len(rejected)} rejected")
    for report in rejected:
        print(f"  {report.name}: {report.rejected}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
