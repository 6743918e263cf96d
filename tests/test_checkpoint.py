"""Checkpoints survive a round trip; a broken one is a clear error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from mytalk.errors import BadInput

torch = pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.torch


@dataclass(frozen=True)
class Config:
    dim: int = 8


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    from mytalk.models.checkpoint import load_checkpoint, save_checkpoint

    path = tmp_path / "run" / "last.pt"
    save_checkpoint(path, 7, Config(), {"average": {"w": torch.arange(3.0)}, "minutes": 1.5})
    loaded = load_checkpoint(path)
    assert loaded["step"] == 7
    assert Config(**json.loads(loaded["config"])) == Config()
    assert torch.equal(loaded["average"]["w"], torch.arange(3.0))
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"], "no temporary file stays"


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_broken_file_is_bad_input(tmp_path: Path, content: bytes) -> None:
    from mytalk.models.checkpoint import load_checkpoint

    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"broken\.pt"):
        load_checkpoint(path)


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    from mytalk.models.checkpoint import load_checkpoint

    with pytest.raises(BadInput):
        load_checkpoint(tmp_path / "none.pt")
