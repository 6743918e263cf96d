"""One person's pictures for ``training.tune``: from a video, an actor package or a clip that is scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.actors.actor import Actor
from mytalk.actors.follow import FaceChoice
from mytalk.clock import FPS
from mytalk.errors import BadInput
from mytalk.landmarks.layout import Layout, load_layout
from mytalk.landmarks.normalise import (
    crop_matrices,
    frame_to_crop,
    from_canonical,
    mouth_opening,
    upper_displacement,
)
from mytalk.render.compose import crop, face_part, hidden_mask
from mytalk.types import F32, U8, LipReferences
from mytalk.video.media import frames_at_rate, probe_video
from mytalk.video.picture import Picture
from training.appearance_data import WINDOW, AppearanceBatches, AppearanceDraw
from training.data import Clip
from training.reels import Source
from training.tracks import RATE, follow_pictures
from training.tune_motion import Talk, talk_of_video

MOST_PICTURES = 1500  # one minute; of a longer part every second, third … picture is taken
FEWEST_PICTURES = 50  # two seconds
TAIL_SHARE = 0.15  # of the pictures, the last ones, are held out: training stops by them
MOST_TAIL = 100
GAP_FRAMES = 12  # between training and tail, since neighbours are nearly the same picture
NEAR_FRAMES = 5  # around a picture that is a lip reference itself
SAME_PICTURE = 6.0  # grey levels, mean difference below which a picture is one of the references


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """F pictures of one person, in the order of the video.

    crops: uint8 [F, 256, 256, 3]. points: float32 [F, K, 2], crop pixels. opening: float32 [F], canonical
    units. frames: int [F], their numbers in the video, 25 a second. references: those that will be used.
    talk: what the person says there, if it is known.
    """

    crops: U8
    points: F32
    opening: F32
    frames: npt.NDArray[np.intp]
    references: LipReferences
    talk: Talk | None = None

    def __len__(self) -> int:
        return len(self.crops)

    def check(self) -> None:
        """Raise ``BadInput`` unless there is enough to tune on."""
        there_s, needed_s = len(self) / FPS, FEWEST_PICTURES / FPS
        if there_s < needed_s:
            raise BadInput(
                f"tuning needs {needed_s:.0f} s with the face; there are {there_s:.1f} s", "too_short"
            )

    def near_references(self) -> npt.NDArray[np.bool_]:
        """Pictures that are a lip reference, or next to one: bool [F]. They would teach to copy."""
        inside = hidden_mask() > 0
        near = np.zeros(len(self), np.bool_)
        for reference in self.references.pictures:
            wanted = reference[inside].astype(np.int16)
            apart = np.array([np.abs(one[inside].astype(np.int16) - wanted).mean() for one in self.crops])
            if apart.min() < SAME_PICTURE:
                near |= np.abs(self.frames - self.frames[int(apart.argmin())]) <= NEAR_FRAMES
        return near

    def split(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Rows to train on, and the held-out tail."""
        count = min(MOST_TAIL, round(len(self) * TAIL_SHARE))
        tail = np.arange(len(self) - count, len(self))
        before = np.flatnonzero(self.frames < self.frames[tail[0]] - GAP_FRAMES)
        return before, tail


def thinned(shown: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Frames with the mouth in view, evenly thinned to what is used at most."""
    frames = np.flatnonzero(shown)
    return frames[:: max(1, -(-len(frames) // MOST_PICTURES))]


def person_of_source(source: Source, part: slice) -> Person:
    """Some frames of a clip that is scored, with its own references."""
    frames = np.arange(source.frames)[part]
    frames = frames[thinned(source.track.face.shown[part])]
    points = np.stack([frame_to_crop(source.points[i, :, :2], source.matrices[i]) for i in frames])
    opening, face = source.track.opening, source.track.face
    first = part.indices(source.frames)[0]
    talk = talk_of_video(source.path, first, source.upper[part], source.rest, opening[part], face.shown[part])
    return Person(source.cuts.crops[frames], points, opening[frames], frames, source.references, talk)


def person_of_actor(actor: Actor) -> Person:
    """The loop of an actor package: often a quiet mouth, so a video is better."""
    motion, count = actor.motion, actor.card.frames
    landmarks = from_canonical(motion.canonical, motion.poses)
    frames = thinned(np.ones(count, np.bool_))
    points = np.stack([frame_to_crop(landmarks[i, :, :2], actor.matrices[i]) for i in frames])
    crops = np.stack([crop(actor.frames[i], actor.matrices[i]) for i in frames])
    opening = mouth_opening(motion.canonical, actor.layout)[frames]
    return Person(crops, points, opening, frames, actor.references)


def person_of_video(
    video: Path, references: LipReferences, *, start_s: float, end_s: float, face: FaceChoice
) -> Person:
    """One face of a part of a video. Raises ``BadInput`` as ``find_face`` does; needs MediaPipe."""
    info, first = probe_video(video), round(start_s * FPS)
    count = max(1, round(end_s * FPS) - first) if np.isfinite(end_s) else None

    def pictures() -> Iterator[Picture]:
        return islice(frames_at_rate(video, RATE, first=first, info=info), count)

    track = follow_pictures(pictures(), str(video), face)
    points, matrices = track.points(), crop_matrices(track.poses)
    coded = matrices.copy()
    coded[:, 0] /= float(info.aspect)
    wanted = set(thinned(track.face.shown).tolist())
    crops, frames = [], []
    for number, picture in enumerate(islice(pictures(), len(points))):
        part = face_part(picture, coded[number]) if number in wanted else None
        if part is not None:
            crops.append(crop(part[1], part[2]))
            frames.append(number)
    rows = np.array(frames, np.intp)
    seen = [frame_to_crop(points[i, :, :2], matrices[i]) for i in frames]
    if not frames:
        raise BadInput(f"{video}: the mouth lies outside the picture", "no_face")
    rest, opening = track.face.rest, track.opening
    upper = upper_displacement(track.canonical, rest, load_layout())
    talk = talk_of_video(video, first, upper, rest, opening, track.face.shown)
    return Person(np.stack(crops), np.stack(seen), track.opening[rows], rows, references, talk)


@dataclass(frozen=True, slots=True)
class OwnClip(Clip):
    """A person in the form of a prepared clip, in memory; the lip references are its last three crops."""

    person: Person | None = None

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What ``AppearanceBatches`` needs."""
        assert self.person is not None
        person, extra = self.person, len(self.person.references.points)
        points = np.concatenate([person.points, person.references.points])
        last = int(person.frames[-1]) + 1
        frames = np.concatenate([person.frames, last + np.arange(extra)])
        all_points = np.zeros((last + extra, *points.shape[1:]), np.float32)
        opening = np.zeros(last + extra, np.float32)
        all_points[frames], opening[person.frames] = points, person.opening
        matrices = np.repeat(np.eye(2, 3, dtype=np.float32)[None], last + extra, axis=0)
        return {"points": all_points, "opening": opening, "matrices": matrices, "picked": frames}

    def crops(self) -> U8:
        """Crops uint8 [F + 3, 256, 256, 3]."""
        assert self.person is not None
        return np.concatenate([self.person.crops, self.person.references.pictures])


class OwnBatches(AppearanceBatches):
    """Batches of one person; part of them with the very references that will be used."""

    def __init__(self, person: Person, settings: AppearanceDraw, own_share: float, layout: Layout) -> None:
        """own_share: of the sets of references; the others are drawn from the video."""
        self._rows, _ = person.split()
        near = person.near_references()
        self._away = self._rows[~near[self._rows]]
        if len(self._away) == 0:
            self._away = self._rows
        self._own_share, self._own = own_share, len(person) + np.arange(len(person.references.points))
        self.clip = OwnClip("own", "own", "own/own", Path(), person=person)
        super().__init__([self.clip], settings, layout, WINDOW)

    def _usable(self, clip: Clip) -> np.ndarray:
        return self._rows

    def pick(self, clip: Clip, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Targets [K] and references [3], as ``AppearanceBatches.pick``."""
        if random.random() >= self._own_share:
            return super().pick(clip, random)
        picked, count = self.arrays[clip.name]["picked"][self._away], self.settings.targets
        weight = 0.02 + np.clip(self.arrays[clip.name]["opening"][picked], 0, 0.3)  # as for other references
        by_opening = random.choice(self._away, count, p=weight / weight.sum())
        uniform = random.choice(self._away, count)
        return np.where(random.random(count) < 0.5, by_opening, uniform), self._own
