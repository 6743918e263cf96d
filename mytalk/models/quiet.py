"""Keeps libraries that trace and quantise models from talking to whoever runs our commands."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings meanwhile: torch's exporter and ONNX Runtime's quantiser print dozens about themselves.

    For commands, not for servers: it holds for all threads. Errors are raised as ever.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
