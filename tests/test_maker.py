"""What decodes strangers' files: what it takes, what it tells, and that it ends with whoever asked."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from mytalk.errors import BadInput
from server.actors.maker import MakeRequest, Reporter, check_media, problem
from server.actors.making import COMMAND, ROOT
from tests.small_actor import TALKING_FACE, small_pictures, write_video
from tests.test_making import request


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_pictures_and_videos_are_taken_whatever_their_name(tmp_path: Path, kind: str) -> None:
    for name in ("upload.txt", f"upload.{kind.lower()}", "upload.jpg"):
        Image.fromarray(small_pictures(1)[0]).save(tmp_path / name, kind)
        check_media(tmp_path / name)
    check_media(TALKING_FACE)
    check_media(write_video(tmp_path / "small.mp4", small_pictures(3)))


@pytest.mark.parametrize(
    "content",
    [
        b"plain text",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        TALKING_FACE.read_bytes()[:2000],
    ],
)
def test_everything_else_is_not_above_all_what_names_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        check_media(path)
    assert error.value.code == "unsupported_media"


def test_a_sound_file_is_none() -> None:
    with pytest.raises(BadInput, match="no video, picture"):
        check_media(Path(__file__).parent / "data" / "silence_then_speech.wav")


def test_progress_is_told_now_and_then_and_at_every_end() -> None:
    channel = io.StringIO()
    reporter = Reporter(channel)
    for done in range(1, 101):
        reporter.progress("one", done, 100)
    reporter.progress("two", 0, 7)
    lines = [json.loads(line) for line in channel.getvalue().splitlines()]
    assert len(lines) < 20
    assert lines[0] == {"stage": "one", "done": 1, "total": 100}
    assert {"stage": "one", "done": 100, "total": 100} in lines
    assert lines[-1] == {"stage": "two", "done": 0, "total": 7}


def test_it_ends_when_whoever_asked_is_gone(tmp_path: Path) -> None:
    fifo = tmp_path / "endless"
    os.mkfifo(fifo)  # reading it takes for ever
    process = subprocess.Popen(
        COMMAND, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    fields = request(tmp_path, fifo)
    line = {name: getattr(fields, name) for name in MakeRequest.__slots__}
    process.stdin.write(json.dumps(line).encode() + b"\n")
    process.stdin.close()
    assert process.wait(20) == 1


def test_problems_are_one_line_without_the_servers_folders(tmp_path: Path) -> None:
    upload = tmp_path / "secret" / "me.mp4"
    told = problem(BadInput(f"{upload}: no face\nand more", "no_face"), upload)
    assert told == {"code": "no_face", "message": "me.mp4: no face"}
    assert problem(OSError(28, "full"), upload)["code"] == "disk_full"
    assert problem(MemoryError(), upload)["code"] == "too_large"
    with pytest.raises(PermissionError):
        problem(PermissionError(), upload)
