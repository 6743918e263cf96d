"""The other side of ``server.actors.maker``: runs it, passes its progress on, and always ends it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mytalk.errors import MyTalkError
from server.actors.maker import MakeRequest

logger = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "server.actors.maker")
LINE_BYTES = 64 * 1024
TAIL_BYTES = 2000  # of what it printed before it broke, for the log
Progress = Callable[[str, int, int], None]  # (stage, done, in all)


class MakeFailed(MyTalkError):
    """No actor came of an upload. refused: it was not even taken for a video, a picture or a package."""

    def __init__(self, message: str, code: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.code, self.refused = code, refused


async def make_apart(
    request: MakeRequest, deadline_s: float, on_accepted: Callable[[str], None], on_progress: Progress
) -> str:
    """Make an actor in a process of its own; returns its name.

    on_accepted: told once what the upload is. Raises ``MakeFailed``. Cancelling this kills the process.
    """
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            cwd=ROOT,
            limit=LINE_BYTES,
            start_new_session=True,  # so that it can be killed with all that it started
        )
        try:
            async with asyncio.timeout(deadline_s):
                return await _listen(process, request, said, on_accepted, on_progress)
        except TimeoutError as error:
            raise MakeFailed(f"making the actor took more than {deadline_s:g} s", "too_slow") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())


async def _listen(
    process: asyncio.subprocess.Process,
    request: MakeRequest,
    said: IO[bytes],
    on_accepted: Callable[[str], None],
    on_progress: Progress,
) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ConnectionError):  # one that broke at once is told below
        process.stdin.write(json.dumps(dataclasses.asdict(request)).encode() + b"\n")
        await process.stdin.drain()
    accepted = False
    while line := await process.stdout.readline():
        message: dict[str, Any] = json.loads(line)
        if "made" in message:
            return str(message["made"])
        if "error" in message:
            error = message["error"]
            raise MakeFailed(error["message"], error["code"], refused=not accepted)
        if "accepted" in message:
            accepted = True
            on_accepted(message["accepted"])
        else:
            on_progress(message["stage"], message["done"], message["total"])
    said.seek(max(0, said.seek(0, os.SEEK_END) - TAIL_BYTES))
    tail = said.read().decode(errors="replace")
    logger.warning("making an actor broke (status %s): %s", await process.wait(), tail)
    raise MakeFailed("making the actor broke, for lack of memory or by a damaged file", "make_failed")
