"""A small prepared data set of made-up faces, as ``training.prepare`` would write it."""

from __future__ import annotations

from pathlib import Path


def write_data(data: Path) -> Path:
    """Two people to train on and one held out, 40 frames each."""
    from mytalk.models.sizes import TINY
    from training import made_up

    return made_up.write_data(data, TINY)
