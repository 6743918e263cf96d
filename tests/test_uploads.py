"""Taking uploads in: fields, file names, full disks, what killed servers left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mytalk.errors import BadInput
from server.actors.making import MakeFailed
from server.actors.upload_config import UploadConfig
from server.actors.uploads import STAGING, _told_as_full_disk, read_fields, safe_filename
from tests.server_fakes import running

CONSENT = "the person shown agreed"


async def test_what_killed_servers_left_is_removed_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    for name in (f"{STAGING}{os.getpid()}-x", f"{STAGING}nonsense", f"{STAGING}999999999-y"):
        (folder / name).mkdir(parents=True)
    (folder / f"{STAGING}{os.getppid()}-z").mkdir()
    async with running(uploads=UploadConfig(folder=folder)):
        assert [path.name for path in folder.iterdir()] == [f"{STAGING}{os.getppid()}-z"]


@pytest.mark.parametrize(
    ("given", "harmless"),
    [
        ("me.mp4", "me.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\me.mp4", "me.mp4"),
        ("..", "upload"),
        ("", "upload"),
        (".bashrc", "bashrc"),
        ("a\x00b\n.mp4", "a_b_.mp4"),
        ("ü" * 100 + ".mp4", "_" * 60 + ".mp4"),
    ],
)
def test_file_names_never_leave_their_folder(given: str, harmless: str) -> None:
    assert safe_filename(given) == harmless


def test_fields_keep_one_line_each() -> None:
    fields = read_fields({"name": "me", "title": " A \n B ", "consent": CONSENT})
    assert (fields.title, fields.face) == ("A B", "only")
    for face in ("largest", "1", "9"):
        assert read_fields({"name": "me", "consent": CONSENT, "face": face}).face == face
    for face in ("0", "10", "left", "1\n2"):
        with pytest.raises(BadInput, match="face is"):
            read_fields({"name": "me", "consent": CONSENT, "face": face})
    with pytest.raises(BadInput, match="unknown field"):
        read_fields({"consent": CONSENT, "path": "/etc"})


def test_the_disk_that_fills_up_is_told() -> None:
    with pytest.raises(MakeFailed) as error, _told_as_full_disk():
        raise OSError(28, "No space left on device")
    assert error.value.code == "disk_full"
