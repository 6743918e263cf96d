"""Any video with a face + any speech → the same video saying it, through the code path of a live session.

Two passes, so that no more than a few pictures are ever in memory: the face in the video, then motion from
the speech (a ``TalkSession`` in simulated time) and pictures, side by side. What is known of the face waits
in an unnamed temporary file. The pose comes from each source frame itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.actors.covered import MouthWatch
from mytalk.actors.faces import FaceTrack, pick_references, track_crop_landmarks, track_face
from mytalk.actors.follow import FaceChoice, find_face
from mytalk.actors.tuned import Tuner, Tuning
from mytalk.clock import FPS, PLAYOUT_RATE
from mytalk.control import NO_CONTROL, Control, guide
from mytalk.dubbing.motion import MotionBetween, speech_motion
from mytalk.dubbing.timeline import Timeline, pictures_back_and_forth, pictures_from, timeline
from mytalk.engines.engine import Engine
from mytalk.errors import BadInput
from mytalk.landmarks.detect import POINTS
from mytalk.landmarks.layout import Layout, load_layout
from mytalk.landmarks.normalise import CROP, crop_matrices
from mytalk.render.compose import crop, face_outline, face_part, lowest, paste
from mytalk.render.renderer import LipSource, check_fit, crop_landmarks, decode_landmarks, lip_source
from mytalk.types import F32, U8, LipReferences
from mytalk.video.media import VideoInfo, check_file, probe_video, read_frames, read_speech
from mytalk.video.out import VideoWriter
from mytalk.video.picture import Box, Picture
from mytalk.video.spool import Spool

OUTPUT_CRF = 16
OUTPUT_NAMES = (".mp4", ".m4v", ".mov")
RENDER_BATCH = 8
BATCH_BYTES = 48 * 1024 * 1024  # of source pictures; larger ones come in smaller batches
FADE_S = 0.16  # between the source's own mouth and ours, where the face comes or goes

Progress = Callable[[str, int, int], None]  # (stage, done, in all; 0 when unknown)


@dataclass(frozen=True, slots=True)
class DubReport:
    """What was written: frames at fps (about, unless regular); untouched: how many passed through as they
    were.

    notes: what the user should know, a line each.
    """

    frames: int
    fps: Fraction
    seconds: float
    untouched: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """The video as far as it is used, and the face in it.

    matrices: float32 [F, 2, 3], crop → square pixels; coded: crop → pixels as coded. strength: float32 [F],
    how much of our face is shown. upper_offset: float32 [U], what an emotion adds to the upper-face prefix.
    tuning: what gave the person a decoder of their own, and a width of the mouth.
    """

    path: Path
    info: VideoInfo
    line: Timeline
    track: FaceTrack
    matrices: F32
    coded: F32
    strength: F32
    references: LipReferences
    lips: LipSource
    upper_offset: F32
    tuning: Tuning | None


@dataclass(frozen=True, slots=True)
class _Work:
    """What waits in unnamed files: landmarks found and smoothed, rows [478, 3]; what mouths looked like."""

    points: Spool
    landmarks: Spool
    watch: MouthWatch


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is shown when: times_s float64 [n]; shown int [n], frames of the source."""

    seconds: float
    times_s: npt.NDArray[np.float64]
    shown: npt.NDArray[np.intp]

    def middle_s(self, position: int) -> float:
        """Middle of the time for which a picture is shown, seconds."""
        end = self.times_s[position + 1] if position + 1 < len(self.times_s) else self.seconds
        return float(self.times_s[position] + max(end, self.times_s[position])) / 2


def _open_source(
    video: Path,
    layout: Layout,
    seconds: float,
    face: FaceChoice,
    control: Control,
    tune: Tuner | None,
    work: _Work,
    progress: Progress | None,
) -> _Source:
    """Find the face in the first ``seconds`` of a video."""
    info = probe_video(video)
    times: list[float] = []
    expected = int(min(seconds, info.duration_s or seconds) * info.fps) + 1

    def needed(picture: Picture) -> bool:
        return not times or picture.time_s - times[0] < seconds

    def on_picture(picture: Picture, found: F32 | None) -> None:
        times.append(picture.time_s)
        work.watch.look(picture, found)
        if progress is not None:
            progress("finding the face", len(times), max(len(times), expected))

    find_face(takewhile(needed, read_frames(video, info=info)), work.points, str(video), face, on_picture)
    hidden = (work.watch.covered(), work.watch.doubt())
    track = track_face(work.points, work.landmarks, layout, str(video), *hidden)
    stamps = np.array(times)
    line = timeline(stamps, info.fps)
    matrices = crop_matrices(track.poses)
    coded = matrices.copy()
    coded[:, 0] /= float(info.aspect)
    crops, picked = [], pick_references(track, layout)
    for frame in picked:
        part = face_part(next(pictures_from(video, info, stamps, frame)), coded[frame])
        crops.append(np.zeros((CROP, CROP, 3), np.uint8) if part is None else crop(part[1], part[2]))
    strength = track.strength(max(1, round(FADE_S * line.fps)))
    own = LipReferences(np.stack(crops), track_crop_landmarks(track, picked, matrices))
    tuning = None if tune is None else tune(own)
    guided = guide(control, track.rest, own, layout)
    return _Source(
        video,
        info,
        line,
        replace(track, rest=guided.rest),
        matrices,
        coded,
        strength,
        guided.references,
        lip_source(guided.references),
        guided.upper_offset,
        tuning,
    )


def _motion(source: _Source, plan: _Plan, speech: Path, engine: Engine, layout: Layout) -> MotionBetween:
    frames = max(1, int(np.ceil(plan.seconds * FPS - 1e-6)))
    middles = (np.arange(frames) + 0.5) / FPS
    seen = plan.shown[np.searchsorted(plan.times_s, middles, side="right") - 1]
    upper = source.track.upper(layout)[seen] + source.upper_offset
    identity = engine.identity(np.ascontiguousarray(source.track.rest[:, :2]))
    return MotionBetween(speech_motion(read_speech(speech, PLAYOUT_RATE), frames, upper, engine, identity))


def _batch_rendered(
    source: _Source,
    batch: list[Picture],
    shown: npt.NDArray[np.intp],
    motion: list[F32],
    engine: Engine,
    layout: Layout,
) -> list[Picture]:
    """Pictures with the face made to speak; those of strength 0 are the ones that came in."""
    out, track = list(batch), source.track
    todo: list[tuple[int, tuple[Box, U8, F32]]] = []
    for place, frame in enumerate(shown):
        part = face_part(batch[place], source.coded[frame]) if source.strength[frame] > 0 else None
        if part is not None:
            todo.append((place, part))
    if not todo:
        return out
    faces = np.stack([crop(rgb, inner) for _, (_, rgb, inner) in todo])
    own = track.canonical(shown[[place for place, _ in todo]])
    opening = np.float32(1 if source.tuning is None else source.tuning.figures.opening)
    points = [
        crop_landmarks(
            track.rest,
            own[k],
            opening * motion[place],
            pose=track.poses.select(slice(shown[place], shown[place] + 1)),
            matrix=source.matrices[shown[place]],
            layout=layout,
        )
        for k, (place, _) in enumerate(todo)
    ]
    latents = engine.encode_appearance(source.references.pictures, faces)
    tuned = None if source.tuning is None else source.tuning.decoder
    made = decode_landmarks(engine, points, latents, source.lips, layout, tuned)
    filmed = track_crop_landmarks(track, shown[[place for place, _ in todo]], source.matrices)
    for (place, (box, rgb, inner)), face, seen, told in zip(todo, made, filmed, points, strict=True):
        strength, drop_px = float(source.strength[shown[place]]), lowest(told) - lowest(seen)
        pasted = paste(rgb, face, inner, strength, face_outline(seen), drop_px)
        out[place] = batch[place].with_rgb(box, rgb, pasted)
    return out


def _rendered(
    source: _Source, plan: _Plan, motion: MotionBetween, engine: Engine, layout: Layout
) -> Iterator[Picture]:
    """Output pictures, in order, rendered a batch at a time."""
    count = len(plan.shown)
    pictures = pictures_back_and_forth(source.path, source.info, source.line.times_s, count)
    first, size = 0, 1
    while batch := list(islice(pictures, size)):
        said = [motion.at(plan.middle_s(first + i)) for i in range(len(batch))]
        shown = plan.shown[first : first + len(batch)]
        yield from _batch_rendered(source, batch, shown, said, engine, layout)
        first += len(batch)
        size = max(1, min(RENDER_BATCH, BATCH_BYTES // batch[0].nbytes))


def _check_paths(video: Path, speech: Path, out: Path, control: Control) -> None:
    check_file(video, "video")
    check_file(speech, "speech")
    control.check()
    if out.exists() and any(out.samefile(path) for path in (video, speech, *control.files)):
        raise BadInput(f"{out}: is one of the inputs; choose another --out")
    if out.suffix.lower() not in OUTPUT_NAMES:
        raise BadInput(f"{out}: what is written is an MP4; let its name end in .mp4")
    # Told now, and not after minutes of work.
    if out.is_dir():
        raise BadInput(f"{out}: is a folder")
    if not out.parent.is_dir():
        raise BadInput(f"{out.parent}: no such folder")


def _notes(source: _Source, plan: _Plan, untouched: int) -> tuple[str, ...]:
    info, notes = source.info, [] if source.tuning is None else [str(source.tuning)]
    if info.hdr:
        notes.append(
            f"the video is {info.hdr}: its colours are kept, but the lips are made in 8 bits; look at them"
        )
    if info.interlaced:
        notes.append("the video is interlaced: it was made progressive")
    if not source.line.regular:
        notes.append("the video's pictures come at no fixed rate: their time stamps are kept")
    if len(plan.shown) > len(source.line.times_s):
        notes.append("the video is shorter than the speech: it goes back and forth")
    if untouched:
        notes.append(
            f"{untouched} of {len(plan.shown)} pictures show no mouth to work on (out of view, turned away or"
            " covered): left as they were"
        )
    return tuple(notes)


def _write(
    out: Path,
    source: _Source,
    plan: _Plan,
    pictures: Iterator[Picture],
    speech: Path,
    progress: Progress | None,
) -> None:
    regular, count = source.line.regular, len(plan.shown)
    width, height = source.info.coded
    blocks, sent = read_speech(speech, PLAYOUT_RATE), 0
    with VideoWriter(
        out,
        width=width,
        height=height,
        fps=source.line.fps,
        crf=OUTPUT_CRF,
        sound_rate_hz=PLAYOUT_RATE,
        like=source.info,
        regular=regular,
    ) as writer:
        for done, picture in enumerate(pictures, 1):
            time_s = float(plan.times_s[done - 1])
            writer.add_frame(picture, None if regular else time_s)
            while sent <= time_s * PLAYOUT_RATE and (block := next(blocks, None)) is not None:
                writer.add_sound(block)
                sent += len(block)
            if progress is not None:
                progress("making the pictures", done, count)
        for block in blocks:
            writer.add_sound(block)


def dub(
    video: Path,
    speech: Path,
    out: Path,
    engine: Engine,
    *,
    face: FaceChoice = "only",
    control: Control = NO_CONTROL,
    tune: Tuner | None = None,
    progress: Progress | None = None,
) -> DubReport:
    """Write ``out`` (MP4): the video, saying the speech; as long as the speech.

    Size, rate (or time stamps), pixel format and colours are the video's own. A video that is shorter than
    the speech goes back and forth; frames without a face pass through untouched. control: other lip pictures,
    an emotion. tune: gives the person a decoder of their own.

    Raises ``BadInput`` for inputs that cannot be used; nothing half-made is left behind.
    """
    layout = load_layout()
    check_fit(engine, layout)
    _check_paths(video, speech, out, control)
    seconds = sum(len(block) for block in read_speech(speech, PLAYOUT_RATE)) / PLAYOUT_RATE
    with ExitStack() as stack:
        first, second = (stack.enter_context(Spool((POINTS, 3), out.parent)) for _ in range(2))
        watch = stack.enter_context(MouthWatch(layout, out.parent))
        work = _Work(first, second, watch)
        source = _open_source(video, layout, seconds, face, control, tune, work, progress)
        first.close()
        watch.close()
        plan = _Plan(seconds, *source.line.play(seconds))
        motion = _motion(source, plan, speech, engine, layout)
        pictures = _rendered(source, plan, motion, engine, layout)
        _write(out, source, plan, pictures, speech, progress)
    untouched = int((source.strength[plan.shown] == 0).sum())
    notes = _notes(source, plan, untouched)
    return DubReport(len(plan.shown), source.line.fps, seconds, untouched, notes)
