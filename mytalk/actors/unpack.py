"""A zipped actor package → its folder; only the package's own files, wherever the archive says they go."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath

from mytalk.actors.actor import CARD, DECODER, FILES
from mytalk.errors import BadInput

KNOWN = (CARD, *FILES, DECODER)
MAX_ENTRIES = 64
PIECE_BYTES = 1 << 20
IGNORED = ("__MACOSX", ".DS_Store")  # what a Mac adds to every archive


def is_package(path: Path) -> bool:
    """Whether a file is a zip archive, by its content."""
    return zipfile.is_zipfile(path)


def unpack(archive: Path, folder: Path, limit_bytes: int) -> None:
    """Put the files of a zipped package into an existing folder; ``load_actor`` checks what is in them.

    The package's files lie at the top of the archive or in one folder. Nothing is written anywhere else,
    whatever names, links or sizes the archive claims. limit_bytes: of all files together, unpacked. Raises
    ``BadInput``.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _entries(opened, archive)
            if sum(entry.file_size for entry in entries.values()) > limit_bytes:
                raise _too_large(archive, limit_bytes)
            left = limit_bytes
            for name, entry in entries.items():
                left = _copy(opened, entry, folder / name, left, archive, limit_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadInput(f"{archive}: the archive cannot be unpacked ({error})", "bad_package") from error


def _entries(opened: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """The package's files by their own names; raises ``BadInput`` for anything else in the archive."""
    entries: dict[str, zipfile.ZipInfo] = {}
    folders: set[PurePosixPath] = set()
    infos = opened.infolist()
    if len(infos) > MAX_ENTRIES:
        raise BadInput(f"{archive}: {len(infos)} files are no actor package", "bad_package")
    for info in infos:
        path = PurePosixPath(info.filename)
        if info.is_dir() or IGNORED[0] in path.parts or path.name == IGNORED[1]:
            continue
        if path.name not in KNOWN or len(path.parts) > 2 or ".." in path.parts or path.is_absolute():
            raise BadInput(f"{archive}: {info.filename!r} does not belong in an actor package", "bad_package")
        if path.name in entries:
            raise BadInput(f"{archive}: {path.name} is there twice", "bad_package")
        entries[path.name] = info
        folders.add(path.parent)
    if CARD not in entries or len(folders) > 1:
        raise BadInput(f"{archive}: not an actor package (no {CARD} beside its files)", "bad_package")
    return entries


def _copy(
    opened: zipfile.ZipFile, entry: zipfile.ZipInfo, to: Path, left: int, archive: Path, limit_bytes: int
) -> int:
    """Copy one file; returns what is left of the limit, which counts real bytes and not what is claimed."""
    with opened.open(entry) as source, to.open("xb") as target:
        while piece := source.read(PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                raise _too_large(archive, limit_bytes)
            target.write(piece)
    return left


def _too_large(archive: Path, limit_bytes: int) -> BadInput:
    return BadInput(f"{archive}: unpacked, it is larger than {limit_bytes // 1_000_000} MB", "bad_package")
