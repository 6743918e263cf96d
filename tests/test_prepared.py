"""The cache of prepared actors: whole files or none, bounded, the longest unused goes first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mytalk.render.prepared import PreparedCache, is_running

WEIGHTS, ADA, BEN = "w" * 64, "a" * 64, "b" * 64


def test_what_was_kept_comes_back_by_weights_actor_and_kind(tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path / "new" / "folder")
    assert cache.load(WEIGHTS, ADA, "latents") is None
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    cache.keep(WEIGHTS, ADA, "latents", array)
    found = cache.load(WEIGHTS, ADA, "latents")
    assert found is not None
    np.testing.assert_array_equal(found, array)
    for other in ((WEIGHTS, BEN, "latents"), ("v" * 64, ADA, "latents"), (WEIGHTS, ADA, "idle")):
        assert cache.load(*other) is None


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_counts_as_not_there(tmp_path: Path, damage: bytes) -> None:
    cache = PreparedCache(tmp_path)
    cache.keep(WEIGHTS, ADA, "latents", np.zeros(5))
    next(tmp_path.iterdir()).write_bytes(damage)
    assert cache.load(WEIGHTS, ADA, "latents") is None


def test_the_longest_unused_goes_when_there_is_too_much(tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path, limit_bytes=2500)
    array = np.zeros(900, np.uint8)  # and 128 bytes of header
    for second, actor in enumerate("ab"):
        cache.keep(WEIGHTS, actor * 64, "latents", array)
        os.utime(next(tmp_path.glob(f"*-{actor}*")), (second, second))
    assert cache.load(WEIGHTS, ADA, "latents") is not None  # used now: ben is older
    cache.keep(WEIGHTS, "c" * 64, "latents", array)
    assert {path.name[17] for path in tmp_path.iterdir()} == {"a", "c"}


def test_left_overs_of_killed_processes_go_and_others_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f"x.{ended.pid}.part").write_bytes(b"half")
    (tmp_path / f"y.{os.getppid()}.part").write_bytes(b"being written")
    PreparedCache(tmp_path).keep(WEIGHTS, ADA, "latents", np.zeros(1))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npy", ".part"]
    assert is_running(os.getpid())
    assert not is_running(ended.pid)


def test_a_deleted_actor_is_forgotten_whatever_the_weights(tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path)
    for weights in (WEIGHTS, "v" * 64):
        for kind in ("latents", "idle"):
            cache.keep(weights, ADA, kind, np.zeros(1))
    cache.keep(WEIGHTS, BEN, "latents", np.zeros(1))
    cache.forget(ADA)
    assert [path.name[17] for path in tmp_path.iterdir()] == ["b"]
    PreparedCache(tmp_path / "nowhere").forget(ADA)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = PreparedCache(tmp_path / "file" / "folder")
    cache.keep(WEIGHTS, ADA, "latents", np.zeros(1))
    assert cache.load(WEIGHTS, ADA, "latents") is None
