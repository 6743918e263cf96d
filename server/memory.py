"""Memory that was freed, given back to the system: glibc keeps it, in pieces, in an arena for each thread."""

from __future__ import annotations

import ctypes

PAD_BYTES = 0  # what glibc shall keep at the top of its heap


def give_back() -> None:
    """Give back what was freed; it takes some 20 ms. Does nothing where the C library has no such call."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    trim(PAD_BYTES)
