"""Makes an actor package from a video: finds the face, picks a quiet loop and the lip references."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mytalk.actor import (
    CLIP,
    Actor,
    ActorCard,
    ActorMotion,
    check_name,
    load_actor,
    play_order_ping_pong,
    write_package,
)
from mytalk.clock import FPS
from mytalk.compose import crop
from mytalk.errors import BadInput
from mytalk.faces import FaceChoice, FaceTrack, find_face, pick_references, track_face
from mytalk.landmarks.layout import Layout, load_layout
from mytalk.landmarks.normalise import crop_matrices, from_canonical, rest_face
from mytalk.media import VideoWriter, probe_video, read_at_rate, scaled_size
from mytalk.types import F32, U8

SHORT_SIDE_PX = 512  # larger videos are scaled down: the whole clip is kept in memory
LOOP_FRAMES = 12 * FPS  # longest loop
MIN_FRAMES = FPS  # shortest
TURN_FRAMES = 12  # the ends of a ping-pong may move inwards by so much, to turn where the head rests
THUMBNAIL = 48  # pixels, for comparing pictures
CLIP_CRF = 14  # visually lossless; the lips are made from these pictures
RATE = Fraction(FPS)

Progress = Callable[[str, int, int], None]  # (stage, done, in all; 0 when unknown)


@dataclass(frozen=True, slots=True)
class ActorSource:
    """What the maker of an actor says about it; see ``ActorCard`` for name, title, licence and consent.

    start_s, end_s: the part of the video that may be used (end None: to its end). face: which of several.
    """

    name: str
    title: str
    licence: str
    consent: str
    start_s: float = 0.0
    end_s: float | None = None
    face: FaceChoice = "only"


def _part(video: Path, source: ActorSource, first: int, count: int | None) -> Iterator[U8]:
    """Pictures first, first+1, … of the part of the video that may be used, at most ``count``."""
    begin = round(source.start_s * FPS)
    limit = None if source.end_s is None else max(0, round(source.end_s * FPS) - begin - first)
    both = [n for n in (count, limit) if n is not None]
    pictures = read_at_rate(video, RATE, first=begin + first, short_side_px=SHORT_SIDE_PX)
    return islice(pictures, min(both)) if both else pictures


def _thumbnail(picture: U8) -> F32:
    small = Image.fromarray(picture).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel()


def quiet_window(opening: F32, segments: Iterable[slice], longest: int = LOOP_FRAMES) -> slice:
    """Frames of the loop: a run with the face throughout, as long as may be, where the mouth is most closed.

    opening: float32 [F], gap between the lips. Raises ``BadInput`` when no run is long enough.
    """
    run = max(segments, key=lambda s: s.stop - s.start)
    length = min(run.stop - run.start, longest)
    if length < MIN_FRAMES:
        raise BadInput(
            f"the face is in view for {length / FPS:.1f} s at most; an actor needs {MIN_FRAMES / FPS:.0f} s",
            "too_short",
        )
    total = np.concatenate([[0.0], np.cumsum(opening[run].astype(np.float64))])
    start = run.start + int(np.argmin(total[length:] - total[:-length]))
    return slice(start, start + length)


def loop(points: F32, thumbnails: F32) -> tuple[slice, npt.NDArray[np.int32]]:
    """Where a stretch of film is cut, and in what order it is played, so that no seam is seen.

    points: float32 [F, K, 2], the upper face in units of the eyes' distance. thumbnails: float32 [F, P], grey
    values. Returns the frames to keep and int32 [P] play order over them: a loop if two far moments match in
    place and speed as closely as neighbours do, else forwards and backwards, turning where the head rests.
    """
    count = len(points)
    flat = points.reshape(count, -1) / np.sqrt(points.shape[1])
    speed = np.diff(flat, axis=0, prepend=flat[:1])
    usual_step = float(np.median(np.linalg.norm(speed[1:], axis=1)))
    usual_change = float(np.median(np.abs(np.diff(thumbnails, axis=0)).mean(axis=1)))
    best: tuple[float, int, int] | None = None
    for first in range(1, count // 4):
        later = np.arange(max(first + count // 2, first + MIN_FRAMES), count)
        apart = np.linalg.norm(flat[later] - flat[first], axis=1)
        turn = np.linalg.norm(speed[later] - speed[first], axis=1)
        change = np.abs(thumbnails[later] - thumbnails[first]).mean(axis=1)
        cost = np.where(
            (apart < usual_step) & (turn < usual_step) & (change < usual_change), apart + turn, np.inf
        )
        if len(cost) and np.isfinite(cost.min()) and (best is None or cost.min() < best[0]):
            best = float(cost.min()), first, int(later[int(np.argmin(cost))])
    if best is not None:
        _, first, end = best
        return slice(first, end), np.arange(end - first, dtype=np.int32)
    still = np.linalg.norm(speed, axis=1)
    margin = min(TURN_FRAMES, count // 16, (count - MIN_FRAMES) // 2)
    first = 1 + int(np.argmin(still[1 : margin + 2])) if margin > 0 else 0
    end = count - margin + int(np.argmin(still[count - margin :])) + 1 if margin > 0 else count
    return slice(first, end), play_order_ping_pong(end - first)


def _upper_points(track: FaceTrack, layout: Layout, window: slice) -> F32:
    poses = track.poses.select(window)
    upper = from_canonical(track.canonical[window][:, layout.upper], poses)[:, :, :2]
    return (upper / float(np.median(poses.scale))).astype(np.float32)


def _write_clip(
    video: Path, source: ActorSource, folder: Path, *, kept: slice, references: list[int], matrices: F32
) -> tuple[U8, tuple[int, int]]:
    """Write the loop's frames; returns the reference crops, in the given order, and the clip's (W, H)."""
    info = probe_video(video)
    width, height = scaled_size(info.width, info.height, SHORT_SIDE_PX)
    first, last = min(kept.start, *references), max(kept.stop - 1, *references)
    crops: dict[int, U8] = {}
    with VideoWriter(folder / CLIP, width=width, height=height, fps=RATE, crf=CLIP_CRF) as writer:
        for frame, picture in enumerate(_part(video, source, first, last - first + 1), first):
            if kept.start <= frame < kept.stop:
                writer.add_picture(picture)
            if frame in references:
                crops[frame] = crop(picture, matrices[frame])
    return np.stack([crops[frame] for frame in references]), (width + width % 2, height + height % 2)


def _make(video: Path, folder: Path, source: ActorSource, progress: Progress | None) -> None:
    layout, info = load_layout(), probe_video(video)
    expected = 0 if info.duration_s is None else max(0, round((info.duration_s - source.start_s) * FPS))
    thumbnails: list[F32] = []

    def watched() -> Iterator[U8]:
        for picture in _part(video, source, 0, None):
            thumbnails.append(_thumbnail(picture))
            yield picture

    def on_picture() -> None:
        if progress is not None:
            progress("finding the face", len(thumbnails), max(expected, len(thumbnails)))

    points = find_face(watched(), str(video), source.face, on_picture)
    track = track_face(points, layout, str(video))
    window = quiet_window(track.opening, track.segments)
    cut, order = loop(_upper_points(track, layout, window), np.stack(thumbnails)[window])
    kept = slice(window.start + cut.start, window.start + cut.stop)
    if progress is not None:
        progress("writing the actor", 0, 1)
    references = list(pick_references(track))
    matrices = crop_matrices(track.poses)
    crops, (width, height) = _write_clip(
        video, source, folder, kept=kept, references=references, matrices=matrices
    )
    card = ActorCard(
        name=source.name,
        title=source.title,
        layout=layout.name,
        fps=FPS,
        width=width,
        height=height,
        frames=kept.stop - kept.start,
        licence=source.licence,
        consent=source.consent,
        source=video.name,
    )
    rest = rest_face(track.canonical[track.present], layout)
    motion = ActorMotion(track.poses.select(kept), track.canonical[kept], rest, order)
    write_package(folder, card, motion, crops)
    if progress is not None:
        progress("writing the actor", 1, 1)


def make_actor(video: Path, out: Path, source: ActorSource, progress: Progress | None = None) -> Actor:
    """Make the package ``out`` from a video of one person; returns the actor, loaded.

    Raises ``BadInput`` (no face, too small, several, not a video, too short, ``out`` exists) and leaves
    nothing half-made: the folder appears when complete. Needs MediaPipe (``EngineFailed`` without it).
    """
    check_name(source.name)
    if out.exists():
        raise BadInput(f"{out}: exists already; remove it first, or choose another --out", "exists")
    if source.start_s < 0 or (source.end_s is not None and source.end_s <= source.start_s):
        raise BadInput("the part of the video to use must start at 0 s or later, and end after its start")
    probe_video(video)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from error
    try:
        _make(video, folder, source, progress)
        load_actor(folder)
        folder.chmod(0o755)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return load_actor(out)
