"""Clips as they are scored: a source video with its face, and what a system shows in its place, cut alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mytalk.audio.speech import MEL_FRAMES_PER_FRAME, SILENCE, LogMelState, log_mel
from mytalk.clock import ANALYSIS_RATE, FPS
from mytalk.errors import BadInput
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import (
    crop_matrices,
    frame_to_crop,
    mouth_opening,
    to_canonical,
    upper_displacement,
)
from mytalk.render.compose import crop
from mytalk.types import F32, U8, LipReferences
from mytalk.video.media import read_at_rate, read_speech
from mytalk.video.picture import Picture
from training.networks import ARCFACE_POINTS, FACE_PX, SYNC_PX
from training.tracks import RATE, Track, detect, follow

GUARD_FRAMES = 2  # frames on either side of a lip reference that picture metrics leave out, for every system
FACE_EVERY = 5  # identity is compared in one frame of so many
PARTS = ("whole", "first-half", "second-half")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Cuts that only some metrics need: aligned faces for id_sim, wider faces for SyncNet."""

    faces: bool = False
    sync: bool = False


@dataclass(frozen=True, slots=True)
class Cuts:
    """Kept of F pictures, uint8: crops [F, 256, 256, 3], faces [n, 112, 112, 3], sync [F, 224, 224, 3]."""

    crops: U8
    faces: U8
    sync: U8


@dataclass(frozen=True, slots=True)
class Source:
    """A clip to be scored on, at 25 frames/s; F frames, all with the face or a harmless stand-in.

    points: float32 [F, 478, 3], pixels. rest: float32 [478, 3]. upper: float32 [F, U]. scored: bool [F],
    frames that picture metrics use. speech: float32 [S], 16 kHz. log_mel: float32 [4 F, 80]. size: width and
    height, pixels. part: the frames that count.
    """

    name: str
    path: Path
    track: Track
    points: F32
    matrices: F32
    rest: F32
    upper: F32
    references: LipReferences
    scored: npt.NDArray[np.bool_]
    speech: F32
    log_mel: F32
    size: tuple[int, int]
    part: slice
    cuts: Cuts

    @property
    def frames(self) -> int:
        """How many frames the clip has."""
        return len(self.scored)

    def without_pictures(self) -> Source:
        """The same clip without its cuts, which take 0.2 MB a frame."""
        nothing = np.zeros((0, 0, 0, 3), np.uint8)
        return replace(self, cuts=Cuts(nothing, nothing, nothing))


@dataclass(frozen=True, slots=True)
class Shown:
    """What a system shows for a source, F' ≤ F frames: opening float32 [F'], NaN where no face was found."""

    cuts: Cuts
    points: F32
    opening: F32
    speech: F32 | None

    @property
    def frames(self) -> int:
        """How many frames there are."""
        return len(self.opening)


def hear(path: Path) -> F32:
    """The sound of a file: float32 [S], 16 kHz mono, -1..1."""
    return np.concatenate(list(read_speech(path, ANALYSIS_RATE))).astype(np.float32) / 32768


def mel_of(speech: F32, frames: int) -> F32:
    """Log-mel float32 [4 · frames, 80] of 16 kHz speech; silence where there is no more of it."""
    full = np.full((frames * MEL_FRAMES_PER_FRAME, 80), SILENCE, np.float32)
    heard = log_mel(LogMelState.initial(), speech)[1][: len(full)]
    full[: len(heard)] = heard
    return full


def _sync_matrix(points: F32) -> F32:
    """Square around the face with the room that SyncNet was trained with, [2, 3] to pixels."""
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    half, centre = float((high - low).max()) / 2, (low + high) / 2
    side = half * 2.8
    left, top = centre[0] - side / 2, centre[1] - half
    step = side / SYNC_PX
    return np.array([[step, 0, left], [0, step, top]], np.float32)


def _face_matrix(points: F32) -> F32:
    """Similarity from face recognition's 112×112 picture to pixels, by eyes, nose tip and mouth corners."""
    here = np.stack(
        [
            points[[33, 133]].mean(axis=0),
            points[[362, 263]].mean(axis=0),
            points[1],
            points[61],
            points[291],
        ]
    )[:, :2].astype(np.float64)
    there = np.array(ARCFACE_POINTS, np.float64)
    # x' = a x − b y + c, y' = b x + a y + d, least squares
    rows = np.concatenate(
        [
            np.stack([there[:, 0], -there[:, 1], np.ones(5), np.zeros(5)], axis=1),
            np.stack([there[:, 1], there[:, 0], np.zeros(5), np.ones(5)], axis=1),
        ]
    )
    a, b, c, d = np.linalg.lstsq(rows, here.T.ravel(), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]], np.float32)


def _cut(picture: U8, matrix: F32, side: int) -> U8:
    coefficients = tuple(matrix.astype(np.float64).ravel())
    image = Image.fromarray(picture)
    return np.asarray(
        image.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR),
        np.uint8,
    )


class _Cutter:
    """Cuts pictures uint8 [H, W, 3] of one clip, one after the other, by the source's points and matrices."""

    def __init__(self, points: F32, matrices: F32, wanted: Wanted) -> None:
        self._points, self._matrices, self._wanted = points, matrices, wanted
        self._crops: list[U8] = []
        self._faces: list[U8] = []
        self._sync: list[U8] = []

    def __len__(self) -> int:
        return len(self._crops)

    def add(self, picture: U8) -> None:
        frame = len(self._crops)
        self._crops.append(crop(picture, self._matrices[frame]))
        if self._wanted.faces and frame % FACE_EVERY == 0:
            self._faces.append(_cut(picture, _face_matrix(self._points[frame]), FACE_PX))
        if self._wanted.sync:
            self._sync.append(_cut(picture, _sync_matrix(self._points[frame]), SYNC_PX))

    def cuts(self) -> Cuts:
        if not self._crops:
            raise BadInput("there is no picture in it")
        nothing = np.zeros((0, 0, 0, 3), np.uint8)
        faces, sync = (np.stack(some) if some else nothing for some in (self._faces, self._sync))
        return Cuts(np.stack(self._crops), faces, sync)


def cut_all(pictures: Iterable[U8], points: F32, matrices: F32, wanted: Wanted) -> Cuts:
    """Cut pictures uint8 [H, W, 3] of one clip by the source's own points and crop matrices."""
    cutter = _Cutter(points, matrices, wanted)
    for picture in islice(pictures, len(points)):
        cutter.add(picture)
    return cutter.cuts()


def part_of(frames: int, part: str) -> slice:
    """Frames of a part of a clip; raises ``BadInput`` for an unknown one."""
    if part not in PARTS:
        raise BadInput(f"unknown part {part!r}; known: {', '.join(PARTS)}")
    return {
        "whole": slice(0, frames),
        "first-half": slice(0, frames // 2),
        "second-half": slice(frames // 2, frames),
    }[part]


def _scored(track: Track, references: list[int], part: str) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(len(track.present), np.bool_)
    chosen[part_of(len(chosen), part)] = True
    chosen &= track.present
    for frame in references:
        chosen[max(0, frame - GUARD_FRAMES) : frame + GUARD_FRAMES + 1] = False
    return chosen


def load_source(path: Path, name: str, wanted: Wanted, part: str = "whole") -> Source:
    """Read a clip and follow the largest face through it; raises ``BadInput`` when it cannot be scored."""
    track = follow(path, "largest")
    points, matrices, frames = track.points(), crop_matrices(track.poses), len(track.present)
    cuts = cut_all(read_at_rate(path, RATE), points, matrices, wanted)
    # What is scored on the second half may know the first alone.
    picked = track.references(frames // 2 if part == "second-half" else None)
    scored = _scored(track, picked, part)
    if not scored.any():
        raise BadInput(f"{path}: too short to be scored")
    speech, first = hear(path), next(read_at_rate(path, RATE))
    return Source(
        name=name,
        path=path,
        track=track,
        points=points,
        matrices=matrices,
        rest=track.face.rest,
        upper=upper_displacement(track.canonical, track.face.rest, load_layout()),
        references=LipReferences(
            cuts.crops[picked], np.stack([frame_to_crop(points[i, :, :2], matrices[i]) for i in picked])
        ),
        scored=scored,
        speech=speech,
        log_mel=mel_of(speech, frames),
        size=(first.shape[1], first.shape[0]),
        part=part_of(frames, part),
        cuts=cuts,
    )


def fitted(pictures: Iterable[U8], size: tuple[int, int]) -> Iterator[U8]:
    """Pictures at the source's width and height, which other systems may have changed."""
    for picture in pictures:
        if picture.shape[1::-1] == size:
            yield picture
        else:
            yield np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), np.uint8)


def show(source: Source, pictures: Iterable[U8], wanted: Wanted, speech: F32 | None) -> Shown:
    """Cut and measure what a system shows: pictures uint8 [H, W, 3], frame by frame those of the source."""
    crops = _Cutter(source.points, source.matrices, wanted)

    def watched() -> Iterator[Picture]:
        """Each picture is cut as the detector takes it, and let go."""
        for picture in islice(pictures, source.frames):
            crops.add(picture)
            yield Picture.from_rgb(picture, len(crops) / FPS)

    try:
        points = detect(watched(), source.name, "largest")
    except BadInput as error:
        if error.code != "no_face":
            raise
        points = np.full((len(crops), *source.points.shape[1:]), np.nan, np.float32)
    poses = source.track.poses.select(slice(0, len(points)))
    opening = mouth_opening(to_canonical(points, poses), load_layout())
    return Shown(crops.cuts(), points, opening, speech)
