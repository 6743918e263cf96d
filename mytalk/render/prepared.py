"""What was computed once of an actor, on disk: latents and idle faces; bounded, the longest unused goes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LIMIT_BYTES = 4 * 1024**3  # about forty actors of twelve seconds
HASH_CHARACTERS = 16  # of each hash in a file's name
_PART = re.compile(r"\.(\d+)\.part$")


class PreparedCache:
    """Arrays by weights, actor and kind, one ``.npy`` file each. Losing it costs time and nothing else.

    Any thread and several processes may use one folder: files are replaced whole, and one that vanishes or is
    torn counts as not there.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """limit_bytes: of all files together; what was not used for longest goes when there are more."""
        self._folder, self._limit_bytes = folder, limit_bytes

    def _path(self, weights_id: str, fingerprint: str, kind: str) -> Path:
        key = f"{weights_id[:HASH_CHARACTERS]}-{fingerprint[:HASH_CHARACTERS]}"
        return self._folder / f"{key}.{kind}.npy"

    def load(self, weights_id: str, fingerprint: str, kind: str) -> npt.NDArray[Any] | None:
        """An array that was kept, or None."""
        path = self._path(weights_id, fingerprint, kind)
        try:
            array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        with suppress(OSError):
            os.utime(path)  # the file's time is when it was last used
        return array

    def keep(self, weights_id: str, fingerprint: str, kind: str, array: npt.NDArray[Any]) -> None:
        """Write an array; a disk that cannot take it is no error, as the next start only takes longer."""
        path = self._path(weights_id, fingerprint, kind)
        temporary = path.with_suffix(f".{os.getpid()}.part")
        with suppress(OSError):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as file:
                    np.save(file, array)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            self._trim()

    def forget(self, fingerprint: str) -> None:
        """Remove all that was kept of an actor."""
        for path in self._folder.glob(f"*-{fingerprint[:HASH_CHARACTERS]}.*"):
            with suppress(OSError):
                path.unlink()

    def _trim(self) -> None:
        """Remove what killed processes left behind, and the longest unused while there is too much."""
        files = []
        for path in self._folder.iterdir():
            part = _PART.search(path.name)
            if part is not None and not is_running(int(part[1])):
                path.unlink(missing_ok=True)
            elif path.suffix == ".npy":
                state = path.stat()
                files.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def is_running(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
