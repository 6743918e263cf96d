"""A tiny actor package and tiny media files, made on the fly, for tests that need no face detector."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from mytalk.actors.actor import ActorCard, ActorMotion, play_order_ping_pong, write_package
from mytalk.landmarks.layout import load_layout
from mytalk.landmarks.normalise import Poses, crop_matrices, frame_to_crop
from mytalk.types import F32, I16, U8, LipReferences
from mytalk.video.out import VideoWriter
from tests.fakes import FAKE_SPEC, FakeEngine

LAYOUT = load_layout()
SPEC = replace(FAKE_SPEC, compact=len(LAYOUT.compact), upper=2 * len(LAYOUT.upper))  # fits real landmarks
TALKING_FACE = Path(__file__).parent / "data" / "talking_face.mp4"
RATE = Fraction(25)


def fitting_engine() -> FakeEngine:
    return FakeEngine(SPEC)


def small_pictures(frames: int, width: int = 160, height: int = 160) -> list[U8]:
    """Smooth pictures that differ from frame to frame: the red level tells the frame number (5 per frame)."""
    rows, columns = np.mgrid[0:height, 0:width]
    pictures = []
    for frame in range(frames):
        picture = np.empty((height, width, 3), np.uint8)
        picture[..., 0] = 20 + 5 * frame
        picture[..., 1] = rows * 200 // height
        picture[..., 2] = columns * 200 // width
        pictures.append(picture)
    return pictures


def frame_number(picture: U8) -> int:
    """Which of ``small_pictures`` this is, after H.264."""
    return round((float(np.median(picture[..., 0])) - 20) / 5)


def write_video(path: Path, pictures: list[U8], fps: Fraction = RATE, sound: I16 | None = None) -> Path:
    height, width = pictures[0].shape[:2]
    rate = None if sound is None else 48_000
    with VideoWriter(path, width=width, height=height, fps=fps, crf=8, sound_rate_hz=rate) as writer:
        for picture in pictures:
            writer.add_picture(picture)
        if sound is not None:
            writer.add_sound(sound)
    return path


def still_poses(frames: int, scale: float = 50.0, centre: tuple[float, float] = (80.0, 50.0)) -> Poses:
    """A frontal face that does not move."""
    return Poses(
        np.full(frames, scale, np.float32),
        np.tile(np.eye(3, dtype=np.float32), (frames, 1, 1)),
        np.tile(np.array([*centre, 0.0], np.float32), (frames, 1)),
    )


def template_face(frames: int) -> F32:
    """The layout's mean face, canonical, float32 [F, 478, 3]."""
    return np.tile(LAYOUT.template, (frames, 1, 1))


def write_small_actor(folder: Path, frames: int = 6, name: str = "tiny") -> Path:
    """An actor package of 160×160 pictures."""
    folder.mkdir(parents=True)
    write_video(folder / "clip.mp4", small_pictures(frames))
    card = ActorCard(
        name=name,
        title='Tiny "test" actor',
        layout=LAYOUT.name,
        fps=25,
        width=160,
        height=160,
        frames=frames,
        licence="none needed",
        consent="nobody is shown",
        source="made up",
    )
    motion = ActorMotion(
        still_poses(frames), template_face(frames), LAYOUT.template, play_order_ping_pong(frames)
    )
    pictures = np.stack([np.full((256, 256, 3), level, np.uint8) for level in (60, 120, 180)])
    points = frame_to_crop(template_face(1)[0, :, :2] * 50 + (80, 50), crop_matrices(still_poses(1))[0])
    write_package(folder, card, motion, LipReferences(pictures, np.stack([points] * 3)))
    return folder
