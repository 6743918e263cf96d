"""A decoder that was adapted to one person: its weights by name, in one file, read with suspicion.

Only numbers travel with an actor, never a graph: an engine puts them into the places of its own bundle's
decoder (``mytalk.engines.initialisers``), so that a package from a stranger cannot run anything.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mytalk.errors import BadInput
from mytalk.types import LipReferences

F16 = npt.NDArray[np.float16]
BASE = "weights_id"  # key of the file that is no weight; until 0.4 it held the id of all weights
NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
OPENINGS = (0.6, 1.4)  # how much less or more than the model says a mouth may be told to open
MOST_BYTES, MOST_TENSORS = 64 * 1024 * 1024, 2048  # unpacked; those of size tiny are 2 MB


@dataclass(frozen=True, eq=False)
class TunedDecoder:
    """Weights float16 by their names in ``AppearanceModel``.

    appearance_id: of the appearance weights they started from (``EngineSpec``); motion may change.

    Engines hold what they made of one for as long as the object lives.
    """

    appearance_id: str
    tensors: Mapping[str, F16]
    digest: str = field(init=False)  # hash of the weights, which names what was computed with them

    def __post_init__(self) -> None:
        """Hash the weights."""
        seen = hashlib.sha256(self.appearance_id.encode())
        for name in sorted(self.tensors):
            seen.update(name.encode())
            seen.update(np.ascontiguousarray(self.tensors[name]).tobytes())
        object.__setattr__(self, "digest", seen.hexdigest()[:16])


@dataclass(frozen=True, slots=True)
class TuningFigures:
    """What tuning reached, told in the actor's card; on pictures of the clip that it did not learn from.

    steps: of the state that was kept. lip PSNR: dB, inside the mask, before and after. opening: how wide the
    person opens the mouth, over what the motion model says (1: as it says); its displacements are multiplied
    by it, those of a later model, too, since it is about the person.
    """

    steps: int
    lip_psnr_before_db: float
    lip_psnr_after_db: float
    opening: float = 1.0

    def __str__(self) -> str:
        """In a line for people."""
        change = f"{self.lip_psnr_before_db:.1f} → {self.lip_psnr_after_db:.1f} dB"
        wide = "" if self.opening == 1 else f"; the mouth opens {self.opening:.2f} times as wide"
        return f"lips {change} on the clip's end, which was held back ({self.steps} steps){wide}"


@dataclass(frozen=True, slots=True)
class Tuning:
    """What tuning gives; decoder is None where it brought nothing."""

    decoder: TunedDecoder | None
    figures: TuningFigures

    def __str__(self) -> str:
        """In a line for people."""
        return f"{'tuned' if self.decoder else 'tuning brought nothing, left untuned'}: {self.figures}"


Tuner = Callable[[LipReferences], Tuning]  # the lip references that the person will be shown with


def write_tuned(path: Path, tuned: TunedDecoder) -> None:
    """Write the file; raises ``OSError``."""
    np.savez(path, **{BASE: np.array(tuned.appearance_id)}, **tuned.tensors)


def read_tuned(path: Path) -> TunedDecoder:
    """Read the file; raises ``BadInput`` in one line for anything that is not weights of a decoder."""
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_TENSORS or sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise BadInput(f"{path}: too large for the weights of a decoder", "bad_weights")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            base = arrays[BASE]
            tensors = {name: arrays[name] for name in arrays.files if name != BASE}
    except (ValueError, KeyError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: cannot be read as weights ({error})", "bad_weights") from error
    if base.dtype.kind != "U" or base.shape != () or not tensors:
        raise BadInput(f"{path}: does not say which weights it belongs to", "bad_weights")
    for name, tensor in tensors.items():
        if not NAME.fullmatch(name) or tensor.dtype != np.float16 or not np.isfinite(tensor).all():
            raise BadInput(f"{path}: {name[:80]!r} is not a weight of finite float16 numbers", "bad_weights")
    return TunedDecoder(str(base), tensors)
