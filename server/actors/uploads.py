"""Uploaded actors: taken in, made by a process apart, added and deleted while the server runs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mytalk.actors.actor import check_name
from mytalk.errors import BadInput, MyTalkError, Overloaded
from mytalk.render.prepared import is_running
from server.actors.cast import TESTCARD
from server.actors.maker import MakeRequest
from server.actors.making import MakeFailed, make_apart
from server.actors.pool import ActorPool, ActorPreparing
from server.actors.upload_config import UploadConfig
from server.metrics import Metrics

logger = logging.getLogger(__name__)
MB = 1_000_000
STAGING = ".incoming-"  # then the process's number: left behind, it tells whether anybody still works in it
FACE = re.compile(r"only|largest|[1-9]")  # a number counts from the left
TEXT_CHARACTERS = {"name": 64, "title": 100, "licence": 2000, "consent": 2000, "face": 16}
POLL_S = 0.3  # between two looks at an actor that is being prepared


class UploadsFull(Overloaded):
    """One actor is being made and others wait already."""

    code = "too_many_uploads"


class NotYours(MyTalkError):
    """Uploads are switched off, or the actor came with the server."""

    code = "forbidden"


@dataclass(frozen=True, slots=True)
class UploadFields:
    """What the uploader says; see ``mytalk.actors.actor.ActorCard``. name: empty for a ready package."""

    name: str = ""
    title: str = ""
    licence: str = ""
    consent: str = ""
    face: str = "only"


def read_fields(given: Mapping[str, str]) -> UploadFields:
    """Check the form's fields; raises ``BadInput`` with code bad_field, bad_actor_name or consent_missing."""
    for key, text in given.items():
        if key not in TEXT_CHARACTERS:
            raise BadInput(f"unknown field {key!r}; known: {', '.join(TEXT_CHARACTERS)}, file", "bad_field")
        if len(text) > TEXT_CHARACTERS[key]:
            raise BadInput(f"{key} has at most {TEXT_CHARACTERS[key]} characters", "bad_field")
    fields = UploadFields(**{key: " ".join(text.split()) for key, text in given.items()})
    if fields.name:
        check_name(fields.name)
    if not FACE.fullmatch(fields.face):
        raise BadInput(f"face is only, largest, or 1 (leftmost) to 9, not {fields.face!r}", "bad_field")
    if not fields.consent:
        raise BadInput(
            "say in the field consent who agreed to being shown saying other words", "consent_missing"
        )
    return fields


@dataclass(eq=False)
class Upload:
    """One upload on its way. stage, done, total: how far it is; kind: what it is, once that is known."""

    fields: UploadFields
    folder: Path  # its own, removed in the end
    stage: str = "uploading"
    done: int = 0
    total: int = 0
    kind: str | None = None
    task: asyncio.Task[str] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Note how far it is."""
        self.stage, self.done, self.total = stage, done, total
        self.changed.set()

    def accepted(self, kind: str) -> None:
        """Note what it is."""
        self.kind = kind
        self.changed.set()


class Uploads:
    """One actor is made at a time, ``config.waiting`` uploads wait, the next one is refused."""

    def __init__(
        self, config: UploadConfig, why_not: str | None, actors: ActorPool, metrics: Metrics, default: str
    ) -> None:
        """why_not: one line on why nothing may be uploaded or deleted. default: an actor that must stay."""
        self._config, self._why_not = config, why_not
        self._actors, self._metrics, self._default = actors, metrics, default
        self._uploads: set[Upload] = set()
        self._one = asyncio.Lock()

    def clean(self) -> None:
        """Remove what servers that were killed left behind."""
        for path in self._config.folder.glob(f"{STAGING}*"):
            pid = path.name.removeprefix(STAGING).partition("-")[0]
            if pid == str(os.getpid()) or not (pid.isdigit() and is_running(int(pid))):
                shutil.rmtree(path, ignore_errors=True)

    def check_allowed(self) -> None:
        """Raise ``NotYours`` when actors cannot be uploaded or deleted here."""
        if self._why_not is not None:
            raise NotYours(self._why_not)

    def check_name(self, name: str, mine: Upload | None = None) -> None:
        """Raise ``BadInput`` (``actor_exists``) when the name is taken, whatever its capitals."""
        making = [upload.fields.name for upload in self._uploads if upload is not mine]
        if name and name.casefold() in [other.casefold() for other in (*self._actors.names, *making)]:
            raise BadInput(f"there is an actor {name!r} already: choose another name", "actor_exists")

    @contextlib.contextmanager
    def place(self, fields: UploadFields, size_bytes: int | None) -> Iterator[Upload]:
        """A place for an upload, with a folder that is removed in the end.

        size_bytes: what the client says it sends. Raises ``UploadsFull`` (no place), ``BadInput`` (name
        taken, too large), ``MakeFailed`` (no room on the disk).
        """
        if len(self._uploads) > self._config.waiting:
            raise UploadsFull(f"{len(self._uploads)} actors are being made already; try again later")
        self.check_name(fields.name)
        self._check_room(size_bytes or 0)
        with _told_as_full_disk():
            self._config.folder.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{STAGING}{os.getpid()}-", dir=self._config.folder))
        upload = Upload(fields, folder)
        self._uploads.add(upload)
        try:
            yield upload
        finally:
            self._uploads.discard(upload)
            shutil.rmtree(folder, ignore_errors=True)

    def _check_room(self, size_bytes: int) -> None:
        if size_bytes > self._config.max_mb * MB:
            raise self.too_large()
        own = sum(self._actors.cast.is_own(name) for name in self._actors.names)
        if own >= self._config.max_actors:
            raise MakeFailed(f"{own} actors were uploaded already; delete one first", "too_many_actors")
        folder = next(path for path in (self._config.folder, *self._config.folder.parents) if path.exists())
        if shutil.disk_usage(folder).free < self._config.free_mb * MB + 2 * size_bytes:
            raise MakeFailed("the server's disk has no room for this actor", "disk_full")

    def too_large(self) -> BadInput:
        """The error for an upload over the limit."""
        return BadInput(f"an upload has at most {self._config.max_mb} MB", "upload_too_large")

    async def receive(self, upload: Upload, filename: str, pieces: AsyncIterator[bytes]) -> Path:
        """Write what comes to the upload's folder; returns the file. Raises ``BadInput``, ``MakeFailed``."""
        path, size = upload.folder / safe_filename(filename), 0
        with _told_as_full_disk(), path.open("xb") as file:
            async for piece in pieces:
                size += len(piece)
                if size > self._config.max_mb * MB:
                    raise self.too_large()
                file.write(piece)
        if size == 0:
            raise BadInput("the uploaded file is empty", "unsupported_media")
        return path

    def begin(self, upload: Upload, file: Path) -> asyncio.Task[str]:
        """Start to make an actor of a received file; the task's result is its name. See ``Upload.task``."""
        upload.progress("waiting", 0, 0)
        upload.task = asyncio.create_task(self._make(upload, file), name=f"make {upload.fields.name}")
        return upload.task

    async def _make(self, upload: Upload, file: Path) -> str:
        result = "failed"
        try:
            async with self._one:
                made = upload.folder / "made"
                name = await make_apart(
                    self._request(upload.fields, file, made),
                    self._config.deadline_s,
                    upload.accepted,
                    upload.progress,
                )
                self._add(upload, made, name)
            result = "made"
            await self._prepare(upload, name)
            return name
        except asyncio.CancelledError:
            result = "made" if result == "made" else "cancelled"
            raise
        finally:
            self._metrics.uploads.labels(result).inc()

    def _request(self, fields: UploadFields, file: Path, out: Path) -> MakeRequest:
        return MakeRequest(
            upload=str(file.resolve()),
            out=str(out.resolve()),
            name=fields.name,
            title=fields.title,
            licence=fields.licence,
            consent=fields.consent,
            face=fields.face,
            max_video_s=self._config.max_video_s,
            memory_mb=self._config.memory_mb,
            file_mb=2 * self._config.max_mb,
        )

    def _add(self, upload: Upload, made: Path, name: str) -> None:
        """The package is complete: from here on there is such an actor."""
        self.check_name(name, mine=upload)
        with _told_as_full_disk():
            made.rename(self._config.folder / name)
        self._actors.cast.add(self._config.folder / name)
        logger.info("actor %s was uploaded", name)

    async def _prepare(self, upload: Upload, name: str) -> None:
        """Prepare the new actor, so that it answers at once; if that fails, whoever asks for it is told."""
        while True:
            upload.progress("preparing", *self._actors.progress(name))
            try:
                self._actors.give_back(await self._actors.take(name, patience_s=POLL_S))
            except ActorPreparing:
                continue
            except MyTalkError as error:
                logger.info("actor %s is not prepared yet: %s", name, error)
            return

    async def delete(self, name: str) -> None:
        """Delete an uploaded actor, or give up making it; sessions that it talks in go on.

        Raises ``NotYours`` for one that came with the server, ``BadInput`` for an unknown one.
        """
        for upload in self._uploads:
            if upload.task is not None and name == upload.fields.name and name not in self._actors.names:
                upload.task.cancel()
                return
        self._actors.check(name)
        if not self._actors.cast.is_own(name):
            raise NotYours(f"actor {name} came with this server: it cannot be deleted here")
        if name == self._default:
            raise NotYours(f"actor {name} is the one that speaks when nobody is named: it cannot be deleted")
        folder = self._actors.cast.remove(name)
        for gone in (name, TESTCARD):  # the test card shows one of the actors
            self._actors.forget(gone)
        grave = Path(tempfile.mkdtemp(prefix=f"{STAGING}{os.getpid()}-", dir=folder.parent))
        folder.rename(grave / "deleted")  # at once and whole; what follows may take a while
        await asyncio.to_thread(self._bury, grave)
        logger.info("actor %s was deleted", name)

    def _bury(self, grave: Path) -> None:
        with contextlib.suppress(MyTalkError):
            self._actors.cast.forget(grave / "deleted")
        shutil.rmtree(grave, ignore_errors=True)

    async def close(self) -> None:
        """Give up what is being made; idempotent."""
        tasks = [upload.task for upload in self._uploads if upload.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def safe_filename(given: str) -> str:
    """A name for a received file: the client's own, as far as it is harmless; it never leaves its folder."""
    base = re.split(r"[/\\]", given)[-1]
    return re.sub(r"[^A-Za-z0-9._-]", "_", base).lstrip(".")[-64:] or "upload"


@contextlib.contextmanager
def _told_as_full_disk() -> Iterator[None]:
    """An error of the disk becomes one line for the client."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MakeFailed("the server's disk has no room for this actor", "disk_full") from error
        logger.warning("an upload cannot be written: %s", error)
        raise MakeFailed("the server cannot write to its folder of actors", "cannot_write") from error
