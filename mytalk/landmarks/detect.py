"""Facial landmarks from pictures, by MediaPipe's face mesh (the ``actors`` extra)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mytalk.errors import BadInput, EngineFailed

POINTS = 478  # MediaPipe's mesh with refined lips, eyes and irises


@dataclass(frozen=True, slots=True)
class Face:
    """One detected face.

    points: float32 [478, 3], pixels of the picture (x right, y down, z away from the camera in the
    same unit, pixel centres at +0.5).
    """

    points: npt.NDArray[np.float32]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the points, in pixels."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


@dataclass(frozen=True, slots=True)
class FaceBox:
    """Where a face is: its box in pixels, roughly from the brows to the chin, and how sure that is (0..1)."""

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def height(self) -> float:
        """Pixels."""
        return self.bottom - self.top

    @property
    def centre(self) -> tuple[float, float]:
        """x, y, pixels."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def meets(self, other: FaceBox) -> bool:
        """Whether the boxes overlap."""
        return max(self.left, other.left) < min(self.right, other.right) and max(self.top, other.top) < min(
            self.bottom, other.bottom
        )


def _solutions() -> Any:
    try:
        with _interrupts_wait():
            from mediapipe.python.solutions import face_detection, face_mesh
    except ImportError as error:
        raise EngineFailed(
            "finding faces needs MediaPipe: run `make actors` (and Debian's libgl1, libglib2.0-0 are needed)"
        ) from error
    return face_detection, face_mesh


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is over.

    While compiled modules are imported, an interrupt gets lost or becomes some other error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    kinds = [kind for kind in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(kind) is not None]
    before = [signal.signal(kind, lambda number, _: arrived.append(number)) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
    for number in arrived:
        signal.raise_signal(number)


def _check(picture: npt.NDArray[np.uint8]) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise BadInput(f"a picture must be uint8 [H, W, 3], not {picture.dtype} {picture.shape}")


class FaceMesh:
    """Landmarks of faces, followed from picture to picture; a context manager.

    Sees faces of at least a sixth or so of the picture's size. Raises ``EngineFailed`` without MediaPipe.
    """

    def __init__(self, max_faces: int = 1) -> None:
        self._mesh = _solutions()[1].FaceMesh(
            static_image_mode=False,
            max_num_faces=max_faces,
            refine_landmarks=True,
            min_detection_confidence=0.5,
            min_tracking_confidence=0.5,
        )

    def __enter__(self) -> Self:
        """The mesh itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free it."""
        self._mesh.close()

    def find(self, picture: npt.NDArray[np.uint8]) -> list[Face]:
        """Faces of the next picture, uint8 RGB [H, W, 3], largest first."""
        _check(picture)
        height, width = picture.shape[:2]
        found = self._mesh.process(picture).multi_face_landmarks or []
        scale = np.array([width, height, width], np.float32)
        faces = [
            Face(np.array([(p.x, p.y, p.z) for p in face.landmark], np.float32) * scale) for face in found
        ]
        return sorted(faces, key=lambda face: (face.box[0] - face.box[2]) * (face.box[3] - face.box[1]))

    def forget(self) -> None:
        """Look for faces afresh in the next picture, which has nothing to do with the last one."""
        self._mesh.reset()


class FaceDetector:
    """Where faces are in a picture, smaller and more of them than ``FaceMesh`` sees; a context manager."""

    def __init__(self) -> None:
        self._detector = _solutions()[0].FaceDetection(model_selection=1, min_detection_confidence=0.5)

    def __enter__(self) -> Self:
        """The detector itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free it."""
        self._detector.close()

    def find(self, picture: npt.NDArray[np.uint8]) -> list[FaceBox]:
        """Faces of a picture uint8 RGB [H, W, 3], in its pixels."""
        _check(picture)
        height, width = picture.shape[:2]
        boxes = []
        for found in self._detector.process(picture).detections or []:
            box = found.location_data.relative_bounding_box
            left, top = box.xmin * width, box.ymin * height
            right, bottom = left + box.width * width, top + box.height * height
            boxes.append(FaceBox(left, top, right, bottom, float(found.score[0])))
        return boxes


def detect_faces(pictures: Iterable[npt.NDArray[np.uint8]], *, max_faces: int = 1) -> Iterator[list[Face]]:
    """Faces of every picture of one clip, in order; tracks from picture to picture.

    pictures: uint8 RGB [H, W, 3], all of one clip. Yields a list per picture, largest face first,
    empty where none was found. Raises ``EngineFailed`` without MediaPipe, ``BadInput`` for a
    picture of the wrong shape.
    """
    with FaceMesh(max_faces) as mesh:
        for picture in pictures:
            yield mesh.find(picture)
