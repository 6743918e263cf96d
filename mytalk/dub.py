"""Any video with a face + any speech → the same video saying it, through the code path of a live session.

Three passes, so that no more than a few pictures are ever in memory: landmarks of the video, motion from the
speech (a ``TalkSession`` in simulated time), and pictures. The pose comes from each source frame itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from mytalk.clock import FPS, PLAYOUT_RATE, PLAYOUT_SAMPLES_PER_FRAME
from mytalk.compose import crop, paste
from mytalk.config import SessionConfig
from mytalk.engines.engine import Engine, EngineSpec
from mytalk.errors import BadInput, EngineFailed
from mytalk.faces import FaceChoice, FaceTrack, find_face, pick_references, track_face
from mytalk.landmarks.layout import Layout, load_layout
from mytalk.landmarks.normalise import crop_matrices, rest_face, upper_displacement
from mytalk.media import VideoWriter, check_file, probe_video, read_at_rate, read_speech
from mytalk.renderer import check_fit, landmark_image
from mytalk.session import TalkSession
from mytalk.types import F32, I16, U8, ActorView, MotionJob, MotionResult, PictureJob, PictureResult

OUTPUT_CRF = 16
MAX_FPS = Fraction(60)
RENDER_BATCH = 8
BACKWARD_BYTES = 128 * 1024 * 1024  # pictures held at most while a video is played backwards
BUFFER_S = 4.0  # speech the session holds ahead of what it plays, simulated time
STUCK_SLOTS = 250  # slots without a new frame after which the session is given up

Progress = Callable[[str, int, int], None]  # (stage, done, in all; 0 when unknown)


@dataclass(frozen=True, slots=True)
class DubReport:
    """What was written: frames at fps; without_face: how many of them passed through untouched."""

    frames: int
    fps: Fraction
    seconds: float
    without_face: int


@dataclass(frozen=True, slots=True)
class _Source:
    """The video as far as it is used: its frames at ``fps``, and the face in them (see ``FaceTrack``)."""

    path: Path
    fps: Fraction
    width: int
    height: int
    track: FaceTrack
    matrices: F32
    rest: F32
    upper: F32
    references: U8

    @property
    def frames(self) -> int:
        return len(self.track.present)


def source_frame(position: int, frames: int) -> int:
    """Frame of a video of so many frames at a play position, forwards and backwards for ever."""
    if frames == 1:
        return 0
    phase = position % (2 * frames - 2)
    return min(phase, 2 * frames - 2 - phase)


def dub_config(spec: EngineSpec) -> SessionConfig:
    """Session settings without a hurry: half of what the model can see at once is lookahead."""
    hop = max(1, spec.tokens // 2)
    return SessionConfig(
        hop_frames=hop, lookahead_frames=spec.tokens - hop, ahead_frames=max(12, 2 * hop), pushed_start_s=0.0
    )


class _SpeechRun:
    """One utterance through a ``TalkSession`` in simulated time: displacements by frame."""

    def __init__(self, engine: Engine, view: ActorView, config: SessionConfig, seed: int) -> None:
        self._engine = engine
        self._now = 0.0
        self._session = TalkSession(
            view, engine.spec, engine.initial_state(), config, seed=seed, now=self._now
        )

    def positions(self, speech: Iterator[I16]) -> Iterator[tuple[int, F32]]:
        """(play position, displacement float32 [Kc, 3]) of every frame, as the session plans them."""
        session, held, ended, idle_slots = self._session, 0, False, 0
        try:
            while idle_slots < STUCK_SLOTS:
                while not ended and held < BUFFER_S * PLAYOUT_RATE:
                    block = next(speech, None)
                    if block is None:
                        ended = True
                        session.end_of_speech(self._now)
                    else:
                        session.receive_speech(block, PLAYOUT_RATE, now=self._now, live=False)
                        held += len(block)
                planned = list(self._work())
                yield from planned
                self._now = max(self._now, session.next_due())
                slices = session.slices_due(self._now)
                held -= PLAYOUT_SAMPLES_PER_FRAME * sum(s.speech_sample is not None for s in slices)
                idle_slots = 0 if planned else idle_slots + 1
        finally:
            session.close()

    def _work(self) -> Iterator[tuple[int, F32]]:
        """Run every job there is now; simulated time stands still meanwhile, so nothing is ever late."""
        while (job := self._session.next_job()) is not None:
            result: MotionResult | PictureResult
            if isinstance(job, MotionJob):
                result = self._engine.motion([job])[0]
            else:
                result = _noted(job)
                for spec in job.frames:
                    if spec.displacement is not None:
                        yield spec.clip_index, spec.displacement
            self._session.complete(job, result, self._now)


def _noted(job: PictureJob) -> PictureResult:
    """A stand-in for pictures, which are made later, at the video's own rate."""
    return PictureResult(tuple(np.zeros((1, 1, 3), np.uint8) for _ in job.frames))


def speech_motion(
    speech: Iterator[I16], frames: int, upper: F32, engine: Engine, identity: F32, *, seed: int = 0
) -> Iterator[F32]:
    """Displacements float32 [Kc, 3] of the frames of an utterance at 25 frames/s, in order.

    speech: blocks of int16, 48 kHz mono. frames: how many are wanted. upper: float32 [frames, U], upper-face
    displacements of the picture shown at each of them. identity: float32 [E].
    """
    config = dub_config(engine.spec)
    # The session plans a tail, too, and looks ahead of it; the last picture stands in there.
    rows = np.minimum(np.arange(frames + config.tail_frames + 2 * engine.spec.tokens), frames - 1)
    view = ActorView("dub", np.arange(len(rows), dtype=np.int32), upper[rows], identity)
    expected = 0
    for position, displacement in _SpeechRun(engine, view, config, seed).positions(speech):
        # All speech of the first seconds is there at time 0, so the utterance starts at play position 0.
        if position != expected:
            raise EngineFailed(f"the session planned frame {position} instead of {expected}")
        yield displacement
        expected += 1
        if expected == frames:
            return
    raise EngineFailed(f"the session stopped after {expected} of {frames} frames")


def at_output_rate(motion: F32, frame: int, fps: Fraction) -> F32:
    """Displacement float32 [Kc, 3] at the middle of an output frame, between those at 25 frames/s."""
    place = float((frame + Fraction(1, 2)) * FPS / fps - Fraction(1, 2))
    place = min(max(place, 0.0), len(motion) - 1.0)
    before = int(place)
    share = np.float32(place - before)
    if share == 0:
        only: F32 = motion[before]
        return only
    mixed: F32 = ((1 - share) * motion[before] + share * motion[before + 1]).astype(np.float32)
    return mixed


def pictures_back_and_forth(path: Path, fps: Fraction, frames: int, count: int) -> Iterator[U8]:
    """``count`` pictures of a video, back and forth over its first ``frames``; few in memory at a time."""
    position = 0
    while position < count:
        start = source_frame(position, frames)
        if source_frame(position + 1, frames) >= start:
            leg = min(count - position, max(1, frames - 1 - start))
            yield from islice(read_at_rate(path, fps, first=start), leg)
            position += leg
        else:
            first = next(read_at_rate(path, fps, first=start))
            size = max(1, min(start, count - position, BACKWARD_BYTES // first.nbytes))
            low = start - size + 1
            held = list(islice(read_at_rate(path, fps, first=low), size))
            yield from held[::-1]
            position += size


def _open_source(
    video: Path, layout: Layout, seconds: float, face: FaceChoice, progress: Progress | None
) -> _Source:
    info = probe_video(video)
    fps = min(info.fps, MAX_FPS)
    wanted = int(np.ceil(seconds * fps)) + 1
    expected = wanted if info.duration_s is None else min(wanted, round(info.duration_s * fps))
    done = 0

    def on_picture() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("finding the face", done, max(done, expected))

    points = find_face(islice(read_at_rate(video, fps), wanted), str(video), face, on_picture)
    track = track_face(points, layout, str(video))
    rest = rest_face(track.canonical[track.present], layout)
    matrices = crop_matrices(track.poses)
    references = np.stack(
        [crop(next(read_at_rate(video, fps, first=i)), matrices[i]) for i in pick_references(track)]
    )
    upper = upper_displacement(track.canonical, rest, layout)
    return _Source(video, fps, info.width, info.height, track, matrices, rest, upper, references)


def _motion_at_25(
    source: _Source, speech: Path, frames: int, engine: Engine, progress: Progress | None
) -> F32:
    shown = [source_frame(round(frame * source.fps / FPS), source.frames) for frame in range(frames)]
    identity = engine.identity(np.ascontiguousarray(source.rest[:, :2]))
    blocks = read_speech(speech, PLAYOUT_RATE)
    motion = np.empty((frames, engine.spec.compact, 3), np.float32)
    for frame, row in enumerate(speech_motion(blocks, frames, source.upper[shown], engine, identity)):
        motion[frame] = row
        if progress is not None:
            progress("moving the lips", frame + 1, frames)
    return motion


def _rendered(source: _Source, motion: F32, count: int, engine: Engine, layout: Layout) -> Iterator[U8]:
    """Output pictures, in order, rendered a batch at a time."""
    pictures = pictures_back_and_forth(source.path, source.fps, source.frames, count)
    track = source.track
    for first in range(0, count, RENDER_BATCH):
        batch = list(islice(pictures, min(RENDER_BATCH, count - first)))
        shown = [source_frame(first + i, source.frames) for i in range(len(batch))]
        faced = [i for i, frame in enumerate(shown) if track.present[frame]]
        if faced:
            faces = np.stack([crop(batch[i], source.matrices[shown[i]]) for i in faced])
            images = np.stack(
                [
                    landmark_image(
                        source.rest,
                        track.canonical[shown[i]],
                        at_output_rate(motion, first + i, source.fps),
                        pose=track.poses.select(slice(shown[i], shown[i] + 1)),
                        matrix=source.matrices[shown[i]],
                        layout=layout,
                    )
                    for i in faced
                ]
            )
            made = engine.decode(images, engine.encode_appearance(source.references, faces))
            for i, face in zip(faced, made, strict=True):
                batch[i] = paste(batch[i], face, source.matrices[shown[i]])
        yield from batch


def _check_paths(video: Path, speech: Path, out: Path) -> None:
    check_file(video, "video")
    check_file(speech, "speech")
    if out.exists() and (out.samefile(video) or out.samefile(speech)):
        raise BadInput(f"{out}: is one of the inputs; choose another --out")


def dub(
    video: Path,
    speech: Path,
    out: Path,
    engine: Engine,
    *,
    face: FaceChoice = "only",
    progress: Progress | None = None,
) -> DubReport:
    """Write ``out`` (MP4): the video, saying the speech; as long as the speech, at the video's size and rate.

    A video that is shorter than the speech goes back and forth; frames without a face pass through untouched.
    Raises ``BadInput`` for inputs that cannot be used; nothing half-made is left behind.
    """
    layout = load_layout()
    check_fit(engine, layout)
    _check_paths(video, speech, out)
    samples = sum(len(block) for block in read_speech(speech, PLAYOUT_RATE))
    seconds = samples / PLAYOUT_RATE
    source = _open_source(video, layout, seconds, face, progress)
    motion = _motion_at_25(source, speech, -(-samples // PLAYOUT_SAMPLES_PER_FRAME), engine, progress)
    count = max(1, int(np.ceil(seconds * source.fps)))
    blocks, sent = read_speech(speech, PLAYOUT_RATE), 0
    with VideoWriter(
        out,
        width=source.width,
        height=source.height,
        fps=source.fps,
        crf=OUTPUT_CRF,
        sound_rate_hz=PLAYOUT_RATE,
    ) as writer:
        for done, picture in enumerate(_rendered(source, motion, count, engine, layout), 1):
            writer.add_picture(picture)
            while sent < done * PLAYOUT_RATE / source.fps and (block := next(blocks, None)) is not None:
                writer.add_sound(block)
                sent += len(block)
            if progress is not None:
                progress("making the pictures", done, count)
    faceless = sum(not source.track.present[source_frame(k, source.frames)] for k in range(count))
    return DubReport(count, source.fps, seconds, faceless)
