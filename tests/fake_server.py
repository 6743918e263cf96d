"""``python -m tests.fake_server …``: the real server with a fake device and actors drawn by hand."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mytalk.errors import BadInput
from mytalk.types import U8, Job, JobResult, MotionJob, MotionState, PictureResult
from mytalk.video.planar import planar, whiten
from server.__main__ import main
from tests.fakes import FAKE_SPEC, FakeEngine, fake_actor

SIDE = 512
FLASH_PEAK = 0.7
LEVELS = 24  # of an open mouth


def face(clip_index: int, openness: float) -> U8:
    """A calm face whose mouth is ``openness`` (0..1) open: uint8 RGB [512, 512, 3]."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    sway = 3.0 * np.sin(2 * np.pi * clip_index / 18)
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    picture[:] = np.array([120, 140, 150]) + (y / SIDE * 30)[..., None]

    def ellipse(cx: float, cy: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        picture[((x - cx - sway) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = colour

    ellipse(256, 520, 190, 140, (60, 74, 92))
    ellipse(256, 240, 132, 170, (92, 70, 58))
    ellipse(256, 262, 116, 150, (222, 184, 158))
    for eye in (210, 302):
        ellipse(eye, 232, 20, 11, (250, 248, 244))
        ellipse(eye, 232, 9, 10, (64, 52, 44))
    ellipse(256, 342, 44, 10 + 26 * openness, (176, 92, 88))
    ellipse(256, 342, 34, 1.5 + 20 * openness, (70, 26, 30))
    return picture.astype(np.uint8)


class HandDrawn:
    """Implements ``server.actors.cast.SharedRenderer``."""

    def __init__(self, engine: FakeEngine, testcard: bool) -> None:
        self.view = fake_actor(10)
        self.frame_size = (SIDE, SIDE)
        self._engine = engine
        self._testcard = testcard
        self._faces = [planar(face(0, level / LEVELS)) for level in range(LEVELS + 1)]
        self.progress = (10, 10)
        self.memory_bytes = sum(picture.nbytes for picture in self._faces)

    def prepare_next(self, frames: int) -> bool:
        return False

    def keep(self) -> None:
        """Nothing was computed."""

    def initial_state(self) -> MotionState:
        return self._engine.initial_state()

    def execute(self, job: Job) -> JobResult:
        if isinstance(job, MotionJob):
            return self._engine.motion([job])[0]
        pictures = []
        for spec in job.frames:
            loudness = 0.0 if spec.displacement is None else float(np.abs(spec.displacement).max())
            # the fake engine's mouth is about 0.1 open for noise and 0.35 for loud speech
            openness = min(1.0, max(0.0, (loudness - 0.1) / 0.25))
            picture = self._faces[round(openness * LEVELS)]
            if self._testcard and spec.audio_peak > FLASH_PEAK:
                picture = picture.copy()
                whiten(picture)
            pictures.append(picture)
        return PictureResult(tuple(pictures))

    def idle_picture(self, clip_index: int) -> U8:
        return self._faces[0]

    def render_next_idle(self) -> bool:
        return False


class FakeCast:
    """Implements ``server.actors.cast.Cast``."""

    engine_name = "fake"
    batch = 1
    spec = FAKE_SPEC

    def actors(self) -> Sequence[tuple[str, str]]:
        return [("ada", "Ada, drawn by hand"), ("grace", "Grace"), ("testcard", "Test card")]

    def is_own(self, name: str) -> bool:
        return False

    def memory_bytes(self, name: str) -> int:
        return 0

    def poster(self, name: str) -> bytes:
        target = io.BytesIO()
        Image.fromarray(face(0, 0.0)).resize((192, 192)).save(target, "JPEG")
        return target.getvalue()

    def read(self, name: str) -> HandDrawn:
        return HandDrawn(FakeEngine(), name == "testcard")

    def add(self, folder: Path) -> None:
        raise BadInput("these actors are drawn by hand")

    def remove(self, name: str) -> Path:
        raise BadInput("these actors are drawn by hand")

    def forget(self, folder: Path) -> None:
        raise BadInput("these actors are drawn by hand")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], load=lambda _config: FakeCast()))
