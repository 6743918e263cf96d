"""Rows of numbers in an unnamed temporary file: as many as a long video needs, none of them in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from mytalk.errors import BadInput
from mytalk.types import F32


class Spool:
    """float32 rows of one shape, appended, read and overwritten by number.

    The file has no name in the folder, so that nothing is left behind however the process ends. Raises
    ``BadInput`` when the disk is full. Closing twice is harmless.
    """

    def __init__(self, shape: tuple[int, ...], folder: Path | None = None) -> None:
        """shape: of a row. folder: where there is room for the file; None: where temporary files go."""
        self._shape, self._size = shape, 4 * int(np.prod(shape))
        self._count = 0
        self._where = folder or Path(tempfile.gettempdir())
        try:
            self._file = tempfile.TemporaryFile(dir=self._where, buffering=0)  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise BadInput(f"{self._where}: cannot be written ({error.strerror})", "cannot_write") from error

    def __len__(self) -> int:
        """Rows so far."""
        return self._count

    def __enter__(self) -> Self:
        """The spool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the room back."""
        self.close()

    def close(self) -> None:
        """Give the room back."""
        self._file.close()

    def append(self, row: F32) -> None:
        """Add one row."""
        self.write(self._count, row)
        self._count += 1

    def write(self, index: int, row: F32) -> None:
        """Put a row in place of another."""
        if row.shape != self._shape:
            raise BadInput(f"a row must be {list(self._shape)}, not {list(row.shape)}")
        data = memoryview(np.ascontiguousarray(row, np.float32).tobytes())
        try:
            self._file.seek(index * self._size)
            while data:  # a write may stop short of the end, at a limit or a full disk
                data = data[self._file.write(data) :]
        except OSError as error:
            raise BadInput(
                f"{self._where}: the disk has no room for working files ({error.strerror})", "cannot_write"
            ) from error

    def read(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> F32:
        """Some rows, float32 [len(rows), *shape], in the order asked for."""
        out = np.empty((len(rows), *self._shape), np.float32)
        for place, row in enumerate(rows):
            if not 0 <= row < self._count:
                raise BadInput(f"there is no row {row} of {self._count}")
            self._file.seek(int(row) * self._size)
            out[place] = np.frombuffer(self._file.read(self._size), np.float32).reshape(self._shape)
        return out
