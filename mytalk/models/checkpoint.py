"""Checkpoints that describe themselves: trainers write them, export reads them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mytalk.errors import BadInput


def save_checkpoint(path: Path, step: int, config: Any, parts: dict[str, Any]) -> None:
    """Write a checkpoint through a temporary file, so that a kill leaves the last good one intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save({"step": step, "config": json.dumps(asdict(config)), **parts}, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; raises ``BadInput`` with the reason if it cannot be read."""
    try:
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise BadInput(f"{path}: cannot be read as a checkpoint ({error})") from error
    return loaded
