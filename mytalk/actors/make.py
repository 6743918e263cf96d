"""Makes an actor package from a video or a still picture: finds the face, picks a quiet loop and the lip
references.
"""

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

from mytalk.actors.actor import (
    CLIP,
    Actor,
    ActorCard,
    ActorMotion,
    add_decoder,
    check_name,
    load_actor,
    play_order_ping_pong,
    write_package,
)
from mytalk.actors.covered import MouthWatch
from mytalk.actors.faces import FaceTrack, pick_references, runs, track_crop_landmarks, track_face
from mytalk.actors.follow import FaceChoice, find_face
from mytalk.actors.tuned import Tuner
from mytalk.clock import FPS
from mytalk.control import NO_CONTROL, Control, guide
from mytalk.errors import BadInput
from mytalk.landmarks.detect import POINTS
from mytalk.landmarks.layout import Layout, load_layout
from mytalk.landmarks.normalise import CROP, Poses, crop_matrices, from_canonical
from mytalk.render.compose import crop, face_part
from mytalk.types import F32, U8, LipReferences
from mytalk.video.media import VideoInfo, frames_at_rate, probe_video, scaled_size
from mytalk.video.out import VideoWriter
from mytalk.video.picture import Box, Picture
from mytalk.video.spool import Spool

SYNTHETIC = "Synthetic person: nobody's likeness"  # consent of a person who does not exist
LONGEST_PART_S = 120.0  # of a longer video, so much is looked at
SHORT_SIDE_PX = 512  # larger videos are scaled down: the whole clip is kept in memory
LOOP_FRAMES = 12 * FPS  # longest loop
MIN_FRAMES = FPS  # shortest
TURN_FRAMES = 12  # the ends of a ping-pong may move inwards by so much, to turn where the head rests
THUMBNAIL = 48  # pixels, for comparing pictures
CLIP_CRF = 14  # visually lossless; the lips are made from these pictures
CLOSE_EYES_PX = (
    40.0  # a face with less between the eyes, in the clip, fills more of it than it did of the video
)
CLOSE_SIDE, MIN_SIDE_PX = 8.0, 160.0  # then the clip shows so many times that distance, and at least so much
RATE = Fraction(FPS)

Progress = Callable[[str, int, int], None]  # (stage, done, in all; 0 when unknown)


@dataclass(frozen=True, slots=True)
class ActorSource:
    """What the maker of an actor says about it; see ``ActorCard`` for name, title, licence and consent.

    consent: must be said; ``SYNTHETIC`` for a person who does not exist. start_s, end_s: the part of the
    video that may be used (end None: to its end; never more than ``LONGEST_PART_S``). face: which of several.
    control: other lip pictures, an emotion.
    """

    name: str
    title: str
    licence: str
    consent: str
    start_s: float = 0.0
    end_s: float | None = None
    face: FaceChoice = "only"
    control: Control = NO_CONTROL


@dataclass(frozen=True, slots=True)
class _Frame:
    """Part of the picture that the clip shows: box as coded, aligned; size (W, H) of the clip; pixels per
    pixel.
    """

    box: Box
    size: tuple[int, int]
    scale: float


def _part(
    video: Path, source: ActorSource, info: VideoInfo, first: int, count: int | None
) -> Iterator[Picture]:
    """Pictures first, first+1, … of the part of the video that may be used, at most ``count``."""
    begin = round(source.start_s * FPS)
    end_s = min(source.start_s + LONGEST_PART_S, np.inf if source.end_s is None else source.end_s)
    limit = max(0, round(end_s * FPS) - begin - first)
    pictures = frames_at_rate(video, RATE, first=begin + first, info=info)
    return islice(pictures, limit if count is None else min(count, limit))


def _thumbnail(picture: Picture) -> F32:
    rgb = picture.rgb(size=(THUMBNAIL, THUMBNAIL))
    return np.asarray(Image.fromarray(rgb).convert("L"), np.float32).ravel()


def quiet_window(opening: F32, segments: Iterable[slice], longest: int = LOOP_FRAMES) -> slice:
    """Frames of the loop: a run with the face throughout, as long as may be, where the mouth is most closed.

    opening: float32 [F], gap between the lips. Raises ``BadInput`` when no run is long enough.
    """
    run = max(segments, key=lambda s: s.stop - s.start, default=slice(0, 0))
    length = min(run.stop - run.start, longest)
    if length < MIN_FRAMES:
        raise BadInput(
            f"a face that is not turned away, with nothing in front of its mouth, is in view for"
            f" {length / FPS:.1f} s at most; an actor needs {MIN_FRAMES / FPS:.0f} s",
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
    upper = from_canonical(track.canonical(window)[:, layout.upper], poses)[:, :, :2]
    return (upper / float(np.median(poses.scale))).astype(np.float32)


def _framing(track: FaceTrack, kept: slice, info: VideoInfo) -> _Frame:
    """All of the picture, unless the face would be too small in the clip: then the surroundings of the
    face.
    """
    width, height = scaled_size(info.width, info.height, SHORT_SIDE_PX)
    whole = _Frame((0, 0, *info.coded), (width, height), height / info.height)
    eyes_px = float(np.median(track.poses.scale))
    if eyes_px * whole.scale >= CLOSE_EYES_PX:
        return whole
    side = max(eyes_px * CLOSE_SIDE, MIN_SIDE_PX)
    corners = np.array([(x, y, 1) for x in (0, CROP) for y in (0, CROP)], np.float32)
    places = np.einsum("fij,cj->fci", crop_matrices(track.poses.select(kept)), corners).reshape(-1, 2)
    low, high = places.min(axis=0), places.max(axis=0)
    margin = np.maximum(0, side - (high - low)) / 2
    across, aspect = 4, float(info.aspect)  # every format's chroma samples, and an even size
    limits = np.array((info.width, info.height), float)
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, limits)
    left, right = (int(v / aspect) // across * across for v in (low[0], high[0]))
    top, bottom = (int(v) // across * across for v in (low[1], high[1]))
    size = scaled_size(2 * round((right - left) * aspect / 2), bottom - top, SHORT_SIDE_PX)
    return _Frame((left, top, right, bottom), size, size[1] / (bottom - top))


def _in_frame(poses: Poses, frame: _Frame, aspect: float) -> Poses:
    origin = np.array((frame.box[0] * aspect, frame.box[1], 0), np.float32)
    scale = np.float32(frame.scale)
    return Poses(poses.scale * scale, poses.rotation, (poses.translation - origin) * scale)


def _write_clip(
    video: Path,
    source: ActorSource,
    info: VideoInfo,
    path: Path,
    *,
    frame: _Frame,
    kept: slice,
    references: list[int],
    matrices: F32,
) -> U8:
    """Write the loop's frames; returns the reference crops, in the given order.

    matrices: float32 [F, 2, 3], crop → pixels as coded.
    """
    first, last = min(kept.start, *references), max(kept.stop - 1, *references)
    crops: dict[int, U8] = {}
    width, height = frame.size
    with VideoWriter(path, width=width, height=height, fps=RATE, crf=CLIP_CRF) as writer:
        for number, picture in enumerate(_part(video, source, info, first, last - first + 1), first):
            if kept.start <= number < kept.stop:
                writer.add_picture(picture.rgb(frame.box, frame.size))
            if number in references:
                part = face_part(picture, matrices[number])
                blank = np.zeros((CROP, CROP, 3), np.uint8)
                crops[number] = blank if part is None else crop(part[1], part[2])
    return np.stack([crops[number] for number in references])


def _usable(track: FaceTrack) -> list[slice]:
    """Runs without a cut in which the mouth can be seen throughout: every picture of a loop is to speak."""
    return [
        slice(segment.start + part.start, segment.start + part.stop)
        for segment in track.segments
        for part in runs(track.shown[segment])
    ]


def _loop_of(track: FaceTrack, thumbnails: F32, layout: Layout) -> tuple[slice, npt.NDArray[np.int32]]:
    """Frames that the clip keeps and the order they are played in; of a still picture, the one."""
    if len(thumbnails) == 1:
        return slice(0, 1), play_order_ping_pong(1)
    window = quiet_window(track.opening, _usable(track))
    cut, order = loop(_upper_points(track, layout, window), thumbnails[window])
    return slice(window.start + cut.start, window.start + cut.stop), order


def _make(
    video: Path, folder: Path, source: ActorSource, spools: tuple[Spool, Spool], progress: Progress | None
) -> LipReferences:
    """Write the package; returns the video's own lip references."""
    layout, info = load_layout(), probe_video(video)
    length_s = LONGEST_PART_S if source.end_s is None else source.end_s - source.start_s
    expected = round(min(length_s, LONGEST_PART_S, (info.duration_s or 0.0) - source.start_s) * FPS)
    thumbnails: list[F32] = []

    def on_picture(picture: Picture, found: F32 | None) -> None:
        watch.look(picture, found)
        thumbnails.append(_thumbnail(picture))
        if progress is not None:
            progress("finding the face", len(thumbnails), max(expected, len(thumbnails)))

    with MouthWatch(layout, folder) as watch:
        find_face(_part(video, source, info, 0, None), spools[0], str(video), source.face, on_picture)
        covered, doubt = watch.covered(), watch.doubt()
    track = track_face(*spools, layout, str(video), covered, doubt)
    kept, order = _loop_of(track, np.stack(thumbnails), layout)
    if progress is not None:
        progress("writing the actor", 0, 1)
    frame, references = _framing(track, kept, info), list(pick_references(track, layout))
    matrices = crop_matrices(track.poses)
    reference_points = track_crop_landmarks(track, references, matrices)
    matrices[:, 0] /= float(info.aspect)
    crops = _write_clip(
        video, source, info, folder / CLIP, frame=frame, kept=kept, references=references, matrices=matrices
    )
    card = ActorCard(
        name=source.name,
        title=source.title,
        layout=layout.name,
        fps=FPS,
        width=frame.size[0] + frame.size[0] % 2,
        height=frame.size[1] + frame.size[1] % 2,
        frames=kept.stop - kept.start,
        licence=source.licence,
        consent=source.consent,
        source=video.name,
    )
    poses = _in_frame(track.poses.select(kept), frame, float(info.aspect))
    lips = LipReferences(crops, reference_points)
    guided = guide(source.control, track.rest, lips, layout)
    offset = guided.upper_offset if source.control.emotion is not None else None
    motion = ActorMotion(poses, track.canonical(kept), guided.rest, order, offset)
    write_package(folder, card, motion, guided.references)
    if progress is not None:
        progress("writing the actor", 1, 1)
    return lips


def _check_source(video: Path, out: Path, source: ActorSource) -> None:
    check_name(source.name)
    if not source.consent.strip():
        raise BadInput("an actor needs the consent of the person shown: say who agreed to it", "no_consent")
    if out.exists():
        raise BadInput(f"{out}: exists already; remove it first, or choose another --out", "exists")
    if source.start_s < 0 or (source.end_s is not None and source.end_s <= source.start_s):
        raise BadInput("the part of the video to use must start at 0 s or later, and end after its start")
    source.control.check()
    duration_s = probe_video(video).duration_s
    if duration_s is not None and 0 < duration_s <= source.start_s:
        raise BadInput(f"{video}: is {duration_s:.1f} s long; there is nothing from {source.start_s:g} s on")


def make_actor(
    video: Path,
    out: Path,
    source: ActorSource,
    progress: Progress | None = None,
    tune: Tuner | None = None,
) -> Actor:
    """Make the package ``out`` from a video, or a picture, of one person; returns the actor, loaded.

    tune: gives the actor a decoder of its own.

    Raises ``BadInput`` (no consent, no face, too small, several, not a video, too short, ``out`` exists) and
    leaves nothing half-made: the folder appears when complete. Needs MediaPipe (``EngineFailed`` without it).
    """
    _check_source(video, out, source)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})", "cannot_write") from error
    try:
        with Spool((POINTS, 3), folder) as points, Spool((POINTS, 3), folder) as landmarks:
            lips = _make(video, folder, source, (points, landmarks), progress)
        tuning = None if tune is None else tune(lips)
        if tuning is not None and tuning.decoder is not None:
            add_decoder(folder, tuning.decoder, tuning.figures)
        load_actor(folder)
        folder.chmod(0o755)
        folder.rename(out)
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})", "cannot_write") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return load_actor(out)
