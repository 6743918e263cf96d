"""Engines that are built once for a card and kept on disk: where they lie, and how they come there whole."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mytalk.engines.buckets import BUCKETS
from mytalk.engines.bundle import first_line
from mytalk.errors import EngineFailed

logger = logging.getLogger(__name__)


def engine_folder(cache: Path, weights_id: str, precision: str, card: str, versions: Sequence[str]) -> Path:
    """Where the engines of these weights for this card and these libraries are kept."""
    about = json.dumps([weights_id, precision, card, *versions])
    return cache / hashlib.sha256(about.encode()).hexdigest()[:16]


def build_missing(folder: Path, build: Callable[[int, Path], None]) -> dict[int, Path]:
    """Files of all batch sizes, those that are missing built first: whole, or not at all."""
    paths = {batch: folder / f"decode_{batch}.ep" for batch in BUCKETS}
    for batch, path in paths.items():
        if path.is_file():
            continue
        logger.info("building the TensorRT engine for %d pictures; some minutes, once", batch)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=folder, suffix=".ep")
        except OSError as error:
            raise EngineFailed(f"{folder} cannot be written: {error.strerror}") from error
        os.close(descriptor)
        temporary, begin = Path(name), time.monotonic()
        try:
            build(batch, temporary)
            temporary.replace(path)
        except Exception as error:  # torch-tensorrt raises many classes
            raise EngineFailed(f"TensorRT cannot build {batch} pictures: {first_line(error)}") from error
        finally:
            temporary.unlink(missing_ok=True)
        logger.info("built in %.0f s", time.monotonic() - begin)
    return paths
