"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from server.memory import give_back

FREED = """
import re
from pathlib import Path
from server.memory import give_back
def rss_mib(): return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
pieces = [bytearray(60_000) for _ in range(3000)]  # below what glibc maps one by one
last = bytearray(60_000)
before = rss_mib()
del pieces
held = rss_mib()
give_back()
print(before - held, before - rss_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_freed_memory_is_given_back() -> None:
    out = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True).stdout
    freed_mib, given_mib = map(float, out.split())
    assert freed_mib < 20, "glibc kept it"
    assert given_mib > 100


def test_a_c_library_without_it_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()
