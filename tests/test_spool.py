from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mytalk.errors import BadInput
from mytalk.video.spool import Spool


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """No file of this process may grow over 4 kB: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_rows_come_back_in_any_order(tmp_path: Path) -> None:
    with Spool((3, 2), tmp_path) as spool:
        for n in range(5):
            spool.append(np.full((3, 2), n, np.float32))
        spool.write(1, np.full((3, 2), -1, np.float32))
        assert len(spool) == 5
        assert spool.read([4, 0, 1])[:, 2, 1].tolist() == [4.0, 0.0, -1.0]
        assert spool.read(range(5)).shape == (5, 3, 2)
        assert list(tmp_path.iterdir()) == []  # the file has no name
        with pytest.raises(BadInput, match="no row 5"):
            spool.read([5])
        with pytest.raises(BadInput, match="must be"):
            spool.append(np.zeros((2, 2), np.float32))
    spool.close()


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, small_files_only: None) -> None:
    row = np.ones(100, np.float32)
    with Spool((100,), tmp_path) as spool:
        for _ in range(10):
            spool.append(row)
        with pytest.raises(BadInput, match="no room") as caught:
            spool.append(row)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="cannot be written"):
        Spool((3,), tmp_path / "none")
