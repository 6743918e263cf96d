"""Controllable generation (paper 4.3): other pictures for the lips, and an emotion for motion and appearance.

Since motion and appearance are apart, each can be told something of its own. *Lip references*: the appearance
model takes lips, teeth and skin from whatever pictures it is given. *Emotion*: a picture or video of a face
with that expression. Its landmarks, mouth closed, move the rest face that speech moves the lips from, and
stand in the upper-face prefix, so that the motion model hears them; its mouth joins the lip references. What
is not re-made (eyes, brows, all pixels outside the mask) stays as it was filmed.

The emotion is measured as the difference from the person's own rest face. A reference of the same person
shows the expression alone; of somebody else, the shape of that face comes along.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from mytalk.actors.faces import pick_references, track_crop_landmarks, track_face
from mytalk.actors.follow import find_face
from mytalk.errors import BadInput
from mytalk.landmarks.detect import POINTS
from mytalk.landmarks.layout import Layout
from mytalk.landmarks.normalise import CROP, CROP_SIDE, crop_matrices, mouth_opening
from mytalk.render.compose import crop, face_part
from mytalk.types import F32, LipReferences
from mytalk.video.media import check_file, probe_video, read_frames
from mytalk.video.spool import Spool

LOOKED_AT_S = 20.0  # of a reference video, its beginning
LIP_PICTURES = 3  # what the appearance model takes
JAW_RAMP = 0.05  # canonical units below the line between the lips over which points follow the lower jaw


@dataclass(frozen=True, slots=True)
class Control:
    """What is asked for beside the speech.

    lip_references: pictures (or videos) of a mouth, instead of the person's own. emotion: a picture or video
    of a face that shows it, best of the same person.
    """

    lip_references: tuple[Path, ...] = ()
    emotion: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All references."""
        return self.lip_references if self.emotion is None else (*self.lip_references, self.emotion)

    def check(self) -> None:
        """Raise ``BadInput`` for a file that is not there, before any work is done."""
        for path in self.lip_references:
            check_file(path, "lip reference")
        if self.emotion is not None:
            check_file(self.emotion, "emotion reference")


NO_CONTROL = Control()


@dataclass(frozen=True, slots=True)
class SeenFace:
    """A face in a reference: rest float32 [K, 3], canonical, as closed as it was; lips: n = 1..3 crops of it.

    lips.pictures: uint8 [n, 256, 256, 3]; lips.points: float32 [n, K, 2].
    """

    rest: F32
    lips: LipReferences


@dataclass(frozen=True, slots=True)
class Guided:
    """What control makes of a person.

    rest: float32 [K, 3], canonical; differs from the person's own in the compact points alone.
    upper_offset: float32 [U], canonical, added to the upper-face prefix. references: the three lip pictures.
    """

    rest: F32
    upper_offset: F32
    references: LipReferences


def look_at(path: Path, layout: Layout) -> SeenFace:
    """Find the face in a reference picture or video. Raises ``BadInput`` when there is none, or several."""
    info = probe_video(path)
    aspect = float(info.aspect)
    with Spool((POINTS, 3)) as points, Spool((POINTS, 3)) as landmarks:
        early = islice(read_frames(path, info=info), max(1, round(LOOKED_AT_S * info.fps)))
        try:
            find_face(early, points, str(path), "only")
        except BadInput as error:
            if error.code == "several_faces":
                raise BadInput(
                    f"{path}: several faces are in view; a reference must show one", error.code
                ) from error
            raise
        track = track_face(points, landmarks, layout, str(path))
        matrices = crop_matrices(track.poses)
        picked = list(dict.fromkeys(pick_references(track, layout)))
        lip_points = track_crop_landmarks(track, picked, matrices)
        rest = track.rest
    matrices[:, 0] /= aspect
    crops = {}
    for number, picture in enumerate(read_frames(path, info=info)):
        if number in picked:
            part = face_part(picture, matrices[number])
            if part is None:
                raise BadInput(f"{path}: the mouth lies outside the picture")
            crops[number] = crop(part[1], part[2])
        if number == max(picked):
            break
    return SeenFace(rest, LipReferences(np.stack([crops[number] for number in picked]), lip_points))


def lip_openings(points: F32, layout: Layout) -> F32:
    """Gap between the lips of crop landmarks float32 [n, K, 2], canonical units, float32 [n]."""
    return mouth_opening(points * np.float32(CROP_SIDE / CROP), layout)


def choose_lips(seen: list[LipReferences], layout: Layout) -> LipReferences:
    """Three of all pictures: the most closed mouth, one between, the most open; fewer are repeated."""
    pictures = np.concatenate([lips.pictures for lips in seen])
    points = np.concatenate([lips.points for lips in seen])
    order = np.argsort(lip_openings(points, layout), kind="stable")
    rows = order[np.round(np.linspace(0, len(order) - 1, LIP_PICTURES)).astype(int)]
    return LipReferences(pictures[rows], points[rows])


def close_mouth(face: F32, opening: float, layout: Layout) -> F32:
    """A canonical face float32 [K, 3] with the lower jaw raised until the lips are ``opening`` apart.

    Faces that are more closed already stay as they are.
    """
    raised = float(mouth_opening(face[None], layout)[0]) - opening
    if raised <= 0:
        return face
    middle = float(layout.template[layout.mouth_gap.reshape(-1), 1].mean())
    closed = face.copy()
    below = np.clip((layout.template[layout.compact, 1] - middle) / JAW_RAMP, 0, 1)
    closed[layout.compact, 1] -= (raised * below).astype(np.float32)
    return closed


def expression(emotion: F32, rest: F32, layout: Layout) -> F32:
    """How an emotional face differs from a rest face, mouths equally closed: float32 [K, 2], canonical x, y.

    Depth is left out: what a detector says of it is a guess that differs from picture to picture.
    """
    closed = close_mouth(emotion, float(mouth_opening(rest[None], layout)[0]), layout)
    return (closed[:, :2] - rest[:, :2]).astype(np.float32)


def with_emotion(references: LipReferences, emotion: LipReferences, layout: Layout) -> LipReferences:
    """The emotion's mouth among the lip references.

    Three pictures of it take the place of all; one, that of the reference whose mouth is open most alike, so
    that the others still tell of teeth and closed lips.
    """
    if len(emotion.pictures) == LIP_PICTURES:
        return choose_lips([emotion], layout)
    pictures, points = references.pictures.copy(), references.points.copy()
    left = list(range(len(pictures)))
    for picture, own, opening in zip(
        emotion.pictures, emotion.points, lip_openings(emotion.points, layout), strict=True
    ):
        apart = np.abs(lip_openings(references.points[left], layout) - opening)
        place = left.pop(int(np.argmin(apart)))
        pictures[place], points[place] = picture, own
    return LipReferences(pictures, points)


def guide(control: Control, rest: F32, references: LipReferences, layout: Layout) -> Guided:
    """What a person's rest face, float32 [K, 3] canonical, and lip references become under ``control``."""
    offset = np.zeros(2 * len(layout.upper), np.float32)
    if control.lip_references:
        seen = [look_at(path, layout).lips for path in control.lip_references]
        references = choose_lips(seen, layout)
    if control.emotion is not None:
        face = look_at(control.emotion, layout)
        moved = expression(face.rest, rest, layout)
        rest = rest.copy()
        rest[layout.compact, :2] += moved[layout.compact]
        offset = moved[layout.upper].reshape(-1)
        references = with_emotion(references, face.lips, layout)
    return Guided(rest, offset, references)
