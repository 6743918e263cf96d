"""Contact sheets: a clip's own pictures above what is shown in their place, magnified where they differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mytalk.errors import BadInput
from mytalk.types import U8

COLUMNS = 8
MOUTH = (slice(96, 240), slice(56, 200))  # rows and columns of the crop


def write_sheet(folder: Path, name: str, shown: U8, true: U8) -> Path:
    """Write NAME.png: true, shown, and their difference × 4, mouths of frames spread over the clip.

    shown, true: uint8 [F, 256, 256, 3]. Raises ``BadInput`` where the folder cannot be made.
    """
    index = np.linspace(0, len(shown) - 1, min(COLUMNS, len(shown))).round().astype(int)
    apart = np.abs(shown[index].astype(np.int16) - true[index]) * 4
    rows = [np.concatenate(list(x[:, MOUTH[0], MOUTH[1]]), axis=1) for x in (true[index], shown[index])]
    rows.append(np.concatenate(list(np.minimum(apart, 255).astype(np.uint8)[:, MOUTH[0], MOUTH[1]]), axis=1))
    path = folder / f"{name.replace('/', '__')}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(rows)).save(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from error
    return path
