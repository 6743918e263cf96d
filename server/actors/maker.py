"""``python -m server.actors.maker``: one upload → an actor package, in a process of its own with limits.

What strangers send is decoded here and nowhere else. One JSON request on stdin, JSON messages on stdout:
``{"accepted": kind}``, ``{"stage", "done", "total"}`` …, then ``{"made": name}`` or ``{"error": {...}}``.
When stdin ends, so does this process: whoever asked is gone.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import av

from mytalk.actors.actor import load_actor
from mytalk.actors.unpack import is_package, unpack
from mytalk.errors import BadInput, MyTalkError

NICE = 10
MB = 1 << 20
REPORT_EVERY_S = 0.2
# Containers of cameras, phones, editors and pictures; none that names other files or addresses (playlists).
# image2 is what a picture is by its name; the patterns it knows cannot stand in the name of an upload.
DEMUXERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,mxf,h264,hevc,ivf,"
    "image2,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)


@dataclass(frozen=True, slots=True)
class MakeRequest:
    """What is to be made, and at what cost.

    upload: the file as it came. out: folder to make, beside which temporary files go. max_video_s: how much
    of a video is used. memory_mb, file_mb: limits of this process; file_mb is also what a package may be
    unpacked. Times have no limit here: whoever asked kills this process.
    """

    upload: str
    out: str
    name: str
    title: str
    licence: str
    consent: str
    face: str
    max_video_s: int
    memory_mb: int
    file_mb: int


class Reporter:
    """Writes messages; progress not more often than anybody can read it."""

    def __init__(self, channel: TextIO) -> None:
        self._channel = channel
        self._reported: tuple[str, float] = ("", 0.0)

    def tell(self, message: dict[str, Any]) -> None:
        """One message, at once."""
        print(json.dumps(message), file=self._channel, flush=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """How far a stage is."""
        now = time.monotonic()
        if stage != self._reported[0] or now - self._reported[1] > REPORT_EVERY_S or done == total:
            self._reported = stage, now
            self.tell({"stage": stage, "done": done, "total": total})


def check_media(path: Path) -> None:
    """Raise ``BadInput`` (``unsupported_media``) unless a picture can be decoded from the file."""
    try:
        with av.open(str(path), options={"format_whitelist": DEMUXERS}) as container:
            if not container.streams.video:
                raise BadInput("there is sound in this file, but no picture", "unsupported_media")
            if next(container.decode(video=0), None) is None:
                raise BadInput("there is no picture in this file", "unsupported_media")
    except (av.FFmpegError, StopIteration) as error:
        raise BadInput("this is no video, picture or actor package", "unsupported_media") from error


def make(request: MakeRequest, reporter: Reporter) -> str:
    """Make the package; returns the actor's name. Raises ``MyTalkError``, ``OSError`` or ``MemoryError``."""
    upload, out = Path(request.upload), Path(request.out)
    if is_package(upload):
        reporter.tell({"accepted": "package"})
        reporter.progress("checking", 0, 1)
        out.mkdir()
        unpack(upload, out, request.file_mb * MB)
        actor = load_actor(out)
        len(actor.frames)  # decodes the whole clip: what is taken can be shown
        if not actor.card.consent.strip():
            raise BadInput("the package does not say who agreed to being shown", "consent_missing")
        reporter.progress("checking", 1, 1)
        return actor.card.name
    check_media(upload)
    if not request.name:
        raise BadInput("a video needs a name for the actor", "bad_actor_name")
    reporter.tell({"accepted": "video"})  # or a picture
    from mytalk.actors.make import ActorSource, make_actor

    source = ActorSource(
        name=request.name,
        title=request.title or request.name,
        licence=request.licence,
        consent=request.consent,
        end_s=float(request.max_video_s),
        face=int(request.face)
        if request.face.isdigit()
        else "largest"
        if request.face == "largest"
        else "only",
    )
    return make_actor(upload, out, source, reporter.progress).card.name


def problem(error: Exception, upload: Path) -> dict[str, str]:
    """An error for the client, in one line without the server's folders."""
    if isinstance(error, MyTalkError):
        text = str(error).replace(f"{upload.parent}{os.sep}", "").splitlines()
        return {"code": error.code, "message": text[0] if text else error.code}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return {"code": "disk_full", "message": "the server's disk has no room for this actor"}
    if isinstance(error, MemoryError):
        return {"code": "too_large", "message": "making this actor takes more memory than the server allows"}
    raise error


def _limit(request: MakeRequest) -> None:
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (request.memory_mb * MB,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (request.file_mb * MB,) * 2)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(1)


def main() -> int:
    """Read the request, make, report; the exit status is 0 whenever the last message says how it ended."""
    request = MakeRequest(**json.loads(sys.stdin.readline()))
    # native libraries print to stdout as they like: messages get a descriptor of their own
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    _limit(request)
    reporter = Reporter(channel)
    try:
        reporter.tell({"made": make(request, reporter)})
    except (MyTalkError, OSError, MemoryError) as error:
        reporter.tell({"error": problem(error, Path(request.upload))})
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a native thread that will not end must not keep the server waiting
