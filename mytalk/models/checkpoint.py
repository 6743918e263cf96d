"""Checkpoints that describe themselves: trainers write them, export reads them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mytalk.errors import BadInput, MyTalkError


def save_checkpoint(path: Path, step: int, config: Any, parts: dict[str, Any]) -> None:
    """Write a checkpoint that describes itself: see ``write_checkpoint``."""
    write_checkpoint(path, {"step": step, "config": json.dumps(asdict(config)), **parts})


def write_checkpoint(path: Path, saved: dict[str, Any]) -> None:
    """Write a checkpoint through a temporary file, so that a kill leaves the last good one intact.

    Raises ``MyTalkError`` if it cannot be written (a full disk); what lay at ``path`` is intact then.
    """
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(saved, temporary)
        # Without this a power cut can leave the new name on a file whose bytes were never written.
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        reason = str(error).splitlines()[0]
        kept = "the last good one is intact" if path.exists() else "there is none yet"
        raise MyTalkError(
            f"cannot write the checkpoint {path} (is the disk full?); {kept} ({reason})"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; raises ``BadInput`` with the reason if it cannot be read."""
    try:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise BadInput(f"{path}: cannot be read as a checkpoint ({error})") from error
    return loaded
