"""The maker's process: its limits, its end, and what is told when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from server.actors.maker import MakeRequest
from server.actors.making import MakeFailed, make_apart
from tests.small_actor import TALKING_FACE


def request(tmp_path: Path, upload: Path = TALKING_FACE, **changes: Any) -> MakeRequest:
    fields = {
        "upload": str(upload),
        "out": str(tmp_path / "made"),
        "name": "me",
        "title": "",
        "licence": "",
        "consent": "yes",
        "face": "only",
        "max_video_s": 60,
        "memory_mb": 3000,
        "file_mb": 100,
    }
    return MakeRequest(**{**fields, **changes})


def ignore(*_: object) -> None:
    """Progress that nobody looks at."""


def use(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr("server.actors.making.COMMAND", (sys.executable, "-c", program))


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_a_deadline_ends_it_and_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pids"
    use(
        monkeypatch,
        "import os, subprocess, time; child = subprocess.Popen(['sleep', '60']);"
        f"open({str(file)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(60)",
    )
    begin = time.monotonic()
    with pytest.raises(MakeFailed, match="more than 1 s") as error:
        await make_apart(request(tmp_path), 1.0, ignore, ignore)
    assert error.value.code == "too_slow"
    assert time.monotonic() - begin < 5
    await asyncio.sleep(0.1)
    assert not any(is_alive(int(pid)) for pid in file.read_text().split())


@pytest.mark.parametrize("program", ["import os; os.abort()", "raise ValueError('x')", "pass"])
async def test_one_that_breaks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    use(monkeypatch, program)
    with pytest.raises(MakeFailed, match="making the actor broke") as error:
        await make_apart(request(tmp_path), 20.0, ignore, ignore)
    assert (error.value.code, error.value.refused) == ("make_failed", False)


async def test_memory_is_limited(tmp_path: Path) -> None:
    with pytest.raises(MakeFailed) as error:
        await make_apart(request(tmp_path, memory_mb=60), 60.0, ignore, ignore)
    assert error.value.code in ("make_failed", "too_large", "unsupported_media", "bad_input", "engine_failed")
    assert not (tmp_path / "made").exists()


async def test_cancelling_kills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pid"
    use(monkeypatch, f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    task = asyncio.create_task(make_apart(request(tmp_path), 30.0, ignore, ignore))
    async with asyncio.timeout(10):
        while not (file.exists() and file.read_text()):
            await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_alive(int(file.read_text()))
