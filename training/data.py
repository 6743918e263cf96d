"""Prepared clips, the split that keeps identities apart, and their landmarks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.errors import BadInput
from mytalk.landmarks.normalise import frame_to_crop
from mytalk.types import F32, U8

SPLITS = ("train", "validation", "seen_validation", "test")  # lists under DATA/splits
VALIDATION_SPEAKERS = ("s32", "misc_amrkh97", "misc_anshsareen", "misc_rizkiarm")
HELD_OUT_TAIL = 50  # last frames of each demo actor's clip, kept out of training


@dataclass(frozen=True, slots=True)
class Clip:
    """One prepared clip: paths and who is in it (``training.prepare`` wrote the files).

    source: the first folder level of the videos (actors, synthetic, grid, hdtf …). identity: SOURCE/PERSON.
    split: the list under DATA/splits that names it, None without lists.
    """

    name: str
    source: str
    identity: str
    folder: Path
    split: str | None = None

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The motion arrays of the clip, by name."""
        with np.load(self.folder / f"{self.name}.npz", allow_pickle=False) as data:
            return dict(data)

    def crops(self) -> U8:
        """Face crops uint8 [n, 256, 256, 3], memory-mapped."""
        return np.load(self.folder / f"{self.name}.crops.npy", mmap_mode="r")


def identity_of(name: str) -> str:
    """SOURCE/PERSON of a clip's name, SOURCE__PERSON[__REST]."""
    source, _, rest = name.partition("__")
    return f"{source}/{rest.partition('__')[0]}" if rest else f"{source}/{source}"


def read_splits(data: Path) -> dict[str, str]:
    """Which list under DATA/splits names each clip; ``BadInput`` if two lists name one."""
    named: dict[str, str] = {}
    for split in SPLITS:
        path = data / "splits" / f"{split}.txt"
        if not path.is_file():
            continue
        for name in path.read_text(encoding="utf-8").split():
            if name in named:
                raise BadInput(f"{path}: {name} is in {named[name]}.txt, too")
            named[name] = split
    return named


def list_clips(data: Path) -> list[Clip]:
    """All clips of a prepared folder; raises ``BadInput`` if there are none."""
    splits, clips = read_splits(data), []
    for path in sorted((data / "clips").glob("*.npz")):
        name, identity = path.stem, identity_of(path.stem)
        source = identity.partition("/")[0]
        clips.append(Clip(name, source, identity, path.parent, splits.get(name)))
    if not clips:
        raise BadInput(f"no prepared clips under {data}; run training.prepare first")
    return clips


def default_split(clip: Clip, clips: list[Clip]) -> str | None:
    """The house rule: whole GRID speakers and synthetic identities ending in 7 are unseen by training.

    Each other GRID speaker's last tenth by name is held out, too (seen_validation). None for other sources.
    """
    if clip.source == "actors":
        return "train"
    if clip.source == "synthetic":
        return "validation" if clip.identity.endswith("7") else "train"
    if clip.source != "grid":
        return None
    speaker = clip.identity.removeprefix("grid/")
    if speaker in VALIDATION_SPEAKERS:
        return "validation"
    names = sorted(c.name for c in clips if c.identity == clip.identity)
    return "seen_validation" if clip.name in names[len(names) - len(names) // 10 :] else "train"


def is_validation(clip: Clip, clips: list[Clip]) -> bool:
    """Whether training must not see a clip: by the lists of its folder, by the house rule without them."""
    return (clip.split or default_split(clip, clips) or "train") != "train"


def unseen_clips(data: Path) -> list[Clip]:
    """Clips of people that training never sees; raises ``BadInput`` if a prepared folder has none."""
    clips = list_clips(data)
    kept = [clip for clip in clips if (clip.split or default_split(clip, clips)) == "validation"]
    if not kept:
        raise BadInput(f"{data} has no validation clips")
    return kept


def crop_points(arrays: dict[str, npt.NDArray[np.generic]], crops: Iterable[int]) -> F32:
    """Landmarks float32 [n, K, 2] of some of a clip's crops, in their pixels."""
    frames = [arrays["picked"][i] for i in crops]
    return np.stack([frame_to_crop(arrays["points"][f], arrays["matrices"][f]) for f in frames])
