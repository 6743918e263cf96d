"""Facial landmarks from pictures, by MediaPipe's face mesh (the ``actors`` extra)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

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


def _face_mesh(max_faces: int) -> Any:
    try:
        from mediapipe.python.solutions import face_mesh
    except ImportError as error:
        raise EngineFailed(
            "finding faces needs MediaPipe: run `make actors` (and Debian's libgl1, libglib2.0-0 are needed)"
        ) from error
    return face_mesh.FaceMesh(
        static_image_mode=False,
        max_num_faces=max_faces,
        refine_landmarks=True,
        min_detection_confidence=0.5,
        min_tracking_confidence=0.5,
    )


def detect_faces(pictures: Iterable[npt.NDArray[np.uint8]], *, max_faces: int = 1) -> Iterator[list[Face]]:
    """Faces of every picture of one clip, in order; tracks from picture to picture.

    pictures: uint8 RGB [H, W, 3], all of one clip. Yields a list per picture, largest face first,
    empty where none was found. Raises ``EngineFailed`` without MediaPipe, ``BadInput`` for a
    picture of the wrong shape.
    """
    mesh = _face_mesh(max_faces)
    try:
        for picture in pictures:
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise BadInput(f"a picture must be uint8 [H, W, 3], not {picture.dtype} {picture.shape}")
            height, width = picture.shape[:2]
            found = mesh.process(picture).multi_face_landmarks or []
            scale = np.array([width, height, width], np.float32)
            faces = [
                Face(np.array([(p.x, p.y, p.z) for p in face.landmark], np.float32) * scale) for face in found
            ]
            yield sorted(faces, key=lambda face: (face.box[0] - face.box[2]) * (face.box[3] - face.box[1]))
    finally:
        mesh.close()
