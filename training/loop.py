"""What every trainer shares: run configs, checkpoints, exponential moving average."""

from __future__ import annotations

import argparse
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mytalk.errors import BadInput
from mytalk.models.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["Average", "load_checkpoint", "load_config", "save_checkpoint"]

C = TypeVar("C")


def load_config(kind: type[C], path: Path | None, overrides: dict[str, Any]) -> C:
    """A frozen config dataclass from a TOML file and overrides; unknown keys are errors."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise BadInput(f"{path}: {error}") from error
    values |= {key: value for key, value in overrides.items() if value is not None}
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise BadInput(f"unknown settings: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return kind(**values)


@dataclass
class Average:
    """Exponential moving average of a model's weights; the averaged weights are what ships."""

    model: nn.Module
    decay: float

    def __post_init__(self) -> None:
        """Start from the current weights."""
        self.weights = {
            name: value.detach().clone().float() for name, value in self.model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the model's weights in; early steps weigh more, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.model.state_dict().items():
            self.weights[name].lerp_(value.float(), 1 - decay)


def run_arguments(description: str | None, kind: type, argv: list[str] | None) -> argparse.Namespace:
    """The command line that every trainer has; ``kind`` is its run's config dataclass."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that training.prepare wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run (checkpoints, sheets)")
    parser.add_argument("--config", type=Path, help=f"TOML file with {kind.__name__} settings")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long; a later call goes on")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    return parser.parse_args(argv)
