"""HTTP of actors: list, posters, upload with progress, delete (docs/protocol.md)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar
from urllib.parse import quote

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from mytalk.errors import BadInput, MyTalkError
from server.actors.making import MakeFailed
from server.actors.pool import ActorPool
from server.actors.uploads import MB, TEXT_CHARACTERS, Upload, Uploads, read_fields
from server.config import ServerConfig

Result = TypeVar("Result")
NDJSON = "application/x-ndjson"
LINES_HEADERS = {"Content-Type": NDJSON, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
LOOK_EVERY_S = 0.5  # whether the client is still there; a line at least so often, so that nothing times out
QUIET_S = 10.0  # an upload that waits for others for so long gets lines, too
PIECE_BYTES = 256 * 1024
STALL_S = 30.0  # an upload that sends nothing for so long is given up
MAX_FIELDS = 16
NEEDS_MEDIAPIPE = (
    "making an actor from a video needs MediaPipe, which finds the face: run `make actors` on the server"
    " (and apt install libgl1 libglib2.0-0); a ready package, zipped, can be uploaded without it"
)


class UploadStalled(MyTalkError):
    """The client stopped sending in the middle."""

    code = "upload_stalled"


class ActorRoutes:
    """The handlers, with what they need."""

    def __init__(self, config: ServerConfig, actors: ActorPool, uploads: Uploads, default: str) -> None:
        self._config, self._actors, self._uploads, self._default = config, actors, uploads, default

    def routes(self) -> list[web.RouteDef]:
        """Where they are found."""
        return [
            web.get("/v1/actors", self._list),
            web.get("/v1/actors/{name}/poster", self._poster),
            web.post("/v1/actors", self._upload),
            web.delete("/v1/actors/{name}", self._delete),
        ]

    async def _list(self, _request: web.Request) -> web.Response:
        cast = self._actors.cast
        actors = [
            {
                "name": name,
                "title": title,
                "poster": f"v1/actors/{quote(name)}/poster",
                "own": cast.is_own(name),
            }
            for name, title in cast.actors()
        ]
        why_not = self._config.why_no_uploads
        uploads = {
            "why_not": why_not,
            "why_no_video": None if has_mediapipe() else NEEDS_MEDIAPIPE,
            "max_bytes": self._config.uploads.max_mb * MB,
        }
        return web.json_response({"actors": actors, "default": self._default, "uploads": uploads})

    async def _poster(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self._actors.check(name)
        picture = await asyncio.to_thread(self._actors.cast.poster, name)
        # another actor may have the name tomorrow
        return web.Response(
            body=picture, content_type="image/jpeg", headers={"Cache-Control": "private, no-cache"}
        )

    async def _delete(self, request: web.Request) -> web.Response:
        self._uploads.check_allowed()
        await self._uploads.delete(request.match_info["name"])
        return web.json_response({"deleted": request.match_info["name"]})

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        self._uploads.check_allowed()
        if not request.content_type.startswith("multipart/form-data"):
            raise BadInput("send the fields and the file as multipart/form-data", "bad_form")
        given, part = await _in_time(_fields(await _in_time(request.multipart())))
        with self._uploads.place(read_fields(given), request.content_length) as upload:
            file = await self._uploads.receive(upload, part.filename or "", _pieces(part))
            task = self._uploads.begin(upload, file)
            try:
                return await self._answer(request, upload, task)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _answer(
        self, request: web.Request, upload: Upload, task: asyncio.Task[str]
    ) -> web.StreamResponse:
        """Wait for the actor; tell how far it is if the client wants lines, and stop when it has left."""
        lines: web.StreamResponse | None = None
        wants_lines = NDJSON in request.headers.get("Accept", "")
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        while not await _news(upload, task):
            if request.transport is None or request.transport.is_closing():
                task.cancel()
            # what is refused at once gets a status of its own; the first line says 200
            elif wants_lines and (upload.kind is not None or loop.time() - begin_s > QUIET_S):
                if lines is None:
                    lines = web.StreamResponse(headers=LINES_HEADERS)
                    await lines.prepare(request)
                await _say(lines, {"stage": upload.stage, "done": upload.done, "total": upload.total})
        if lines is None:
            return web.json_response({"name": _result(task)}, status=201)
        try:
            await _say(lines, {"ready": _result(task)})
        except MyTalkError as error:
            await _say(lines, {"error": {"code": error.code, "message": str(error)}})
        with contextlib.suppress(ConnectionError):
            await lines.write_eof()
        return lines


async def _news(upload: Upload, task: asyncio.Task[str]) -> bool:
    """Wait until there is something to tell, or for a moment; whether the task is done."""
    changed = asyncio.ensure_future(upload.changed.wait())
    await asyncio.wait({task, changed}, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
    changed.cancel()
    upload.changed.clear()
    return task.done()


def _result(task: asyncio.Task[str]) -> str:
    """The new actor's name; raises what went wrong."""
    if task.cancelled():
        raise MakeFailed("the upload was cancelled", "cancelled")
    return task.result()


async def _say(lines: web.StreamResponse, message: dict[str, Any]) -> None:
    """One line; a client that has just left is noticed by its closed connection."""
    with contextlib.suppress(ConnectionError):
        await lines.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")


async def _fields(form: MultipartReader) -> tuple[dict[str, str], BodyPartReader]:
    """The form's text fields, and the part ``file``, which comes last and is yet to be read."""
    given: dict[str, str] = {}
    while (part := await form.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise BadInput("a part of the form has no name", "bad_form")
        if part.name == "file":
            return given, part
        if part.name in given or len(given) >= MAX_FIELDS:
            raise BadInput(f"the form has {part.name!r} twice, or too many fields", "bad_form")
        # characters have at most four bytes; read_fields counts them
        limit = 4 * TEXT_CHARACTERS.get(part.name, 64)
        raw = bytearray()
        while piece := await part.read_chunk(8192):
            raw += piece
            if len(raw) > limit:
                raise BadInput(f"{part.name[:64]} is too long", "bad_field")
        given[part.name] = raw.decode("utf-8")
    raise BadInput("the form has no part named file, which comes last", "bad_form")


async def _pieces(part: BodyPartReader) -> AsyncIterator[bytes]:
    """The file as it comes; raises ``UploadStalled``."""
    while True:
        piece = await _in_time(part.read_chunk(PIECE_BYTES))
        if not piece:
            return
        yield piece


async def _in_time(reading: Awaitable[Result]) -> Result:
    """What is being read; raises ``UploadStalled``, or ``BadInput`` where aiohttp cannot make sense of it."""
    try:
        async with asyncio.timeout(STALL_S):
            return await reading
    except TimeoutError as error:
        raise UploadStalled(f"nothing came for {STALL_S:.0f} s in the middle of the upload") from error
    except (ValueError, LookupError, HttpProcessingError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the form cannot be read ({text})", "bad_form") from error


def has_mediapipe() -> bool:
    """Whether actors can be made from videos here."""
    return importlib.util.find_spec("mediapipe") is not None
