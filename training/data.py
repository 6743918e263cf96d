"""Prepared clips, the split that keeps identities apart, and the random batches both trainers draw."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.errors import BadInput
from mytalk.landmarks.normalise import frame_to_crop
from mytalk.types import F32, U8

VALIDATION_SPEAKERS = ("s32", "misc_amrkh97", "misc_anshsareen", "misc_rizkiarm")
HELD_OUT_TAIL = 50  # last frames of each demo actor's clip, kept out of training


@dataclass(frozen=True, slots=True)
class Clip:
    """One prepared clip: paths and who is in it (``training.prepare`` wrote the files)."""

    name: str
    source: str  # actors, synthetic or grid
    identity: str
    folder: Path

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The motion arrays of the clip, by name."""
        with np.load(self.folder / f"{self.name}.npz", allow_pickle=False) as data:
            return dict(data)

    def crops(self) -> U8:
        """Face crops uint8 [n, 256, 256, 3], memory-mapped."""
        return np.load(self.folder / f"{self.name}.crops.npy", mmap_mode="r")


def list_clips(data: Path) -> list[Clip]:
    """All clips of a prepared folder; raises ``BadInput`` if there are none."""
    clips = []
    for path in sorted((data / "clips").glob("*.npz")):
        source, person, *_ = path.stem.split(
            "__"
        )  # grid__SPEAKER__SENTENCE; the others have one clip a person
        clips.append(Clip(path.stem, source, f"{source}/{person}", path.parent))
    if not clips:
        raise BadInput(f"no prepared clips under {data}; run training.prepare first")
    return clips


def is_validation(clip: Clip, clips: list[Clip]) -> bool:
    """The held-out part: whole GRID speakers, synthetic identities ending in 7, each speaker's last tenth."""
    if clip.source == "actors":
        return False
    if clip.source == "synthetic":
        return clip.identity.endswith("7")
    speaker = clip.identity.removeprefix("grid/")
    if speaker in VALIDATION_SPEAKERS:
        return True
    names = sorted(c.name for c in clips if c.identity == clip.identity)
    return clip.name in names[len(names) - len(names) // 10 :]


def crop_points(arrays: dict[str, npt.NDArray[np.generic]], crops: Iterable[int]) -> F32:
    """Landmarks float32 [n, K, 2] of some of a clip's crops, in their pixels."""
    frames = [arrays["picked"][i] for i in crops]
    return np.stack([frame_to_crop(arrays["points"][f], arrays["matrices"][f]) for f in frames])


def prefetch(make: Callable[[], object], depth: int = 4) -> Iterator[object]:
    """Endless items made by one background thread, at most ``depth`` waiting; its error is raised here."""
    items: queue.Queue[object] = queue.Queue(maxsize=depth)

    def run() -> None:
        while True:
            try:
                items.put(make())
            except Exception as error:
                items.put(error)
                return

    threading.Thread(target=run, name="prefetch", daemon=True).start()
    while True:
        item = items.get()
        if isinstance(item, Exception):
            raise item
        yield item
