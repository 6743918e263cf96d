"""HTTP of actors: uploads with limits, refusals, progress and cancelling; deleting; nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

from mytalk.actors.actor import load_actor
from server.actors.upload_config import UploadConfig
from server.actors.uploads import STAGING
from tests.fakes import voice
from tests.server_fakes import FakeCast, calling, running
from tests.small_actor import TALKING_FACE, write_small_actor

CONSENT = "the person shown agreed"


def zipped(folder: Path, inside: str = "") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, inside + path.name)
    return target.getvalue()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_small_actor(tmp_path / "made" / "tiny")


def form(content: bytes, filename: str = "upload.zip", **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False)
    for key, value in {"consent": CONSENT, **fields}.items():
        data.add_field(key, value)
    data.add_field("file", content, filename=filename)
    return data


async def upload(url: str, data: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/actors", data=data, headers=headers) as r,
    ):
        return r.status, await r.json()


async def get(url: str, path: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(url + path) as response:
        return await response.json() if "json" in response.content_type else await response.text()


async def delete(url: str, name: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.delete(f"{url}/v1/actors/{name}") as response:
        return response.status, await response.json()


@contextlib.asynccontextmanager
async def serving(folder: Path, cast: FakeCast | None = None, **settings: Any) -> AsyncIterator[str]:
    """A server that keeps uploads in ``folder``; in the end no temporary file may be left there."""
    config = UploadConfig(folder=folder, **{"free_mb": 0, **settings})
    async with running(cast, uploads=config) as url:
        yield url
        await until(lambda: not list(folder.glob(f"{STAGING}*")))


async def until(condition: Callable[[], Any], deadline_s: float = 15.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.02)


async def names(url: str) -> list[str]:
    return [actor["name"] for actor in (await get(url, "/v1/actors"))["actors"]]


async def test_a_ready_package_comes_talks_and_goes_without_a_restart(tmp_path: Path, package: Path) -> None:
    folder, cast = tmp_path / "uploads", FakeCast()
    async with serving(folder, cast) as url, calling(url) as caller:
        assert await upload(url, form(zipped(package, "tiny/"))) == (201, {"name": "tiny"})
        listed = (await get(url, "/v1/actors"))["actors"]
        assert [(actor["name"], actor["own"]) for actor in listed] == [
            ("ada", False),
            ("bob", False),
            ("tiny", True),
        ]
        assert load_actor(folder / "tiny").card.name == "tiny"
        async with calling(url, actor="tiny") as other:
            await other.opened.wait()
            assert await delete(url, "tiny") == (200, {"deleted": "tiny"})
            assert await names(url) == ["ada", "bob"]
            assert not (folder / "tiny").exists()
            assert cast.forgotten == ["tiny"], "its latents go, too"
            other.push(voice(1.0, 24_000))
            await other.until(lambda: other.told("speech_ended"))  # who is talking goes on
        caller.push(voice(0.5, 24_000))
        await caller.until(lambda: caller.told("speech_ended"))
        assert await upload(url, form(zipped(package))) == (201, {"name": "tiny"})  # the name is free again
        assert 'mytalk_uploads_total{result="made"} 2.0' in await get(url, "/metrics")


@pytest.mark.mediapipe
async def test_a_video_becomes_an_actor_and_tells_how_far_it_is(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="needs MediaPipe")
    folder = tmp_path / "uploads"
    data = form(TALKING_FACE.read_bytes(), "../../etc/Me & you.mp4", name="me", title="  Me,\n myself ")
    async with serving(folder) as url, aiohttp.ClientSession() as http:
        headers = {"Accept": "application/x-ndjson"}
        async with http.post(f"{url}/v1/actors", data=data, headers=headers) as response:
            assert (response.status, response.content_type) == (200, "application/x-ndjson")
            lines = [json.loads(line) async for line in response.content]
        stages = list(dict.fromkeys(line["stage"] for line in lines[:-1]))
        assert "finding the face" in stages
        assert stages[-1] == "preparing"
        assert lines[-1] == {"ready": "me"}
        card = load_actor(folder / "me").card
        assert (card.title, card.consent, card.source) == ("Me, myself", CONSENT, "Me___you.mp4")


def a_picture() -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(target, "PNG")
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "filename", "status", "code"),
    [
        (b"hello, I am text", "me.mp4", 415, "unsupported_media"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "me.m3u8", 415, "unsupported_media"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "me.mp4", 415, "unsupported_media"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(500), "me.mp4", 415, "unsupported_media"),
        (b"PK\x03\x04 not really", "me.zip", 415, "unsupported_media"),
        (b"", "empty.mp4", 415, "unsupported_media"),
    ],
)
async def test_what_is_no_media_is_refused_by_its_content(
    tmp_path: Path, content: bytes, filename: str, status: int, code: str
) -> None:
    async with serving(tmp_path / "uploads") as url:
        got, answer = await upload(url, form(content, filename, name="me"), Accept="application/x-ndjson")
        assert (got, answer["error"]["code"]) == (status, code)
        assert str(tmp_path) not in answer["error"]["message"]
        assert "\n" not in answer["error"]["message"]
        assert await names(url) == ["ada", "bob"]
        assert (await get(url, "/healthz"))["status"] == "ok"


@pytest.mark.mediapipe
async def test_a_video_without_a_face_is_422_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="needs MediaPipe")
    async with serving(tmp_path / "uploads") as url:
        status, answer = await upload(url, form(a_picture(), "grey.png", name="me"))
        assert (status, answer["error"]["code"]) == (422, "no_face")
        assert answer["error"]["message"].startswith("grey.png: ")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"consent": "  "}, 400, "consent_missing"),
        ({"name": "../evil"}, 400, "bad_actor_name"),
        ({"name": "a/b"}, 400, "bad_actor_name"),
        ({"name": ".hidden"}, 400, "bad_actor_name"),
        ({"name": "ADA"}, 409, "actor_exists"),
        ({"face": "third"}, 400, "bad_field"),
        ({"stranger": "x"}, 400, "bad_field"),
        ({"title": "x" * 101}, 400, "bad_field"),
        ({"consent": "x" * 9000}, 400, "bad_field"),
    ],
)
async def test_fields_are_checked_before_the_file_is_taken(
    tmp_path: Path, fields: dict[str, str], status: int, code: str
) -> None:
    async with serving(tmp_path / "uploads") as url:
        got, answer = await upload(url, form(TALKING_FACE.read_bytes(), **{"name": "me", **fields}))
        assert (got, answer["error"]["code"]) == (status, code)


async def test_a_form_that_is_none(tmp_path: Path, package: Path) -> None:
    async with serving(tmp_path / "uploads") as url:
        wrong_order = aiohttp.FormData()
        wrong_order.add_field("file", zipped(package), filename="x.zip")
        wrong_order.add_field("consent", CONSENT)
        no_file = aiohttp.FormData()
        no_file.add_field("consent", CONSENT)
        no_file.add_field("name", "x", content_type="text/plain", filename="y")
        for data, code in (
            (b"bytes", "bad_form"),
            ({"consent": CONSENT}, "bad_form"),
            (no_file, "bad_form"),
            (wrong_order, "consent_missing"),
        ):
            status, answer = await upload(url, data)
            assert (status, answer["error"]["code"]) == (400, code)
        broken = {"Content-Type": "multipart/form-data; boundary=x"}
        assert (await upload(url, b"--x\r\nnonsense", **broken))[1]["error"]["code"] == "bad_form"
        assert (await upload(url, form(TALKING_FACE.read_bytes())))[1]["error"]["code"] == "bad_actor_name"


async def test_sizes_are_limited_declared_or_not(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(100_000)

    async with serving(tmp_path / "uploads", max_mb=1) as url:
        status, answer = await upload(url, form(bytes(1_500_000), name="me"))
        assert (status, answer["error"]["code"]) == (413, "upload_too_large")
        data = aiohttp.FormData({"consent": CONSENT, "name": "me"})
        data.add_field("file", endless(), filename="me.mp4")
        with contextlib.suppress(aiohttp.ClientConnectionError):  # the server may hang up in the middle
            status, answer = await upload(url, data)
            assert (status, answer["error"]["code"]) == (413, "upload_too_large")
        assert await names(url) == ["ada", "bob"]


async def test_disk_and_number_are_limited(tmp_path: Path, package: Path) -> None:
    async with serving(tmp_path / "uploads", free_mb=1_000_000) as url:
        status, answer = await upload(url, form(zipped(package)))
        assert (status, answer["error"]["code"]) == (507, "disk_full")
    async with serving(tmp_path / "uploads", max_actors=1) as url:
        assert (await upload(url, form(zipped(package))))[0] == 201
        other = write_small_actor(tmp_path / "other", name="other")
        status, answer = await upload(url, form(zipped(other)))
        assert (status, answer["error"]["code"]) == (507, "too_many_actors")


async def test_one_is_made_at_a_time_few_wait_and_the_next_is_told_to_come_back(
    tmp_path: Path, package: Path
) -> None:
    async with serving(tmp_path / "uploads", waiting=1) as url, aiohttp.ClientSession() as http:
        held = [Slow(zipped(write_small_actor(tmp_path / name, name=name))) for name in ("one", "two")]
        first = [asyncio.create_task(upload(url, slow.form())) for slow in held]
        await until(lambda: len(list((tmp_path / "uploads").glob(f"{STAGING}*"))) == 2)
        async with http.post(f"{url}/v1/actors", data=form(zipped(package))) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["error"]["code"] == "too_many_uploads"
        for slow in held:
            slow.go.set()
        assert [status for status, _ in await asyncio.gather(*first)] == [201, 201]
        assert (await upload(url, form(zipped(package))))[0] == 201


class Slow:
    """A file that is sent all but its last byte, which waits for ``go``."""

    def __init__(self, content: bytes) -> None:
        self.content, self.go = content, asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.content[:-1]
        await self.go.wait()
        yield self.content[-1:]

    def form(self) -> aiohttp.FormData:
        data = aiohttp.FormData({"consent": CONSENT})
        data.add_field("file", self.pieces(), filename="slow.zip")
        return data


async def test_a_client_that_leaves_while_it_sends_leaves_nothing(tmp_path: Path, package: Path) -> None:
    folder = tmp_path / "uploads"
    async with serving(folder) as url:
        sending = asyncio.create_task(upload(url, Slow(zipped(package)).form()))
        await until(lambda: list(folder.glob(f"{STAGING}*/*")))
        sending.cancel()
        await until(lambda: not list(folder.iterdir()))
        assert await names(url) == ["ada", "bob"]


def makers() -> list[str]:
    """Processes of ours that make an actor."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
            if b"server.actors.maker" in path.read_bytes() and parent == str(os.getpid()):
                found.append(path.parent.name)
    return found


@pytest.mark.mediapipe
@pytest.mark.parametrize("how", ["leave", "delete"])
async def test_making_is_given_up_when_the_client_leaves_or_deletes_it(tmp_path: Path, how: str) -> None:
    pytest.importorskip("mediapipe", reason="needs MediaPipe")
    folder = tmp_path / "uploads"
    async with serving(folder) as url:
        making = asyncio.create_task(upload(url, form(TALKING_FACE.read_bytes(), name="me")))
        await until(makers)
        if how == "leave":
            making.cancel()
        else:
            assert await delete(url, "me") == (200, {"deleted": "me"})
            status, answer = await making
            assert (status, answer["error"]["code"]) == (409, "cancelled")
        await until(lambda: not makers() and not list(folder.iterdir()))
        assert await names(url) == ["ada", "bob"]
        assert 'mytalk_uploads_total{result="cancelled"} 1.0' in await get(url, "/metrics")


async def test_bundled_unknown_and_default_actors_are_not_deleted(tmp_path: Path, package: Path) -> None:
    cast = FakeCast()
    cast.own["zoe"] = write_small_actor(tmp_path / "uploads" / "zoe", name="zoe")
    config = UploadConfig(folder=tmp_path / "uploads")
    async with running(cast, uploads=config, actor="zoe") as url:
        for name, status, code in (
            ("ada", 403, "forbidden"),
            ("zoe", 403, "forbidden"),
            ("nobody", 404, "unknown_actor"),
            ("..%2Fuploads", 404, "unknown_actor"),
        ):
            got, answer = await delete(url, name)
            assert (got, answer["error"]["code"]) == (status, code)
    assert (tmp_path / "uploads" / "zoe" / "actor.toml").is_file()


async def test_where_uploads_are_off_or_need_a_token(tmp_path: Path, package: Path) -> None:
    async with serving(tmp_path / "uploads", enabled=False) as url:
        status, answer = await upload(url, form(zipped(package)))
        assert (status, answer["error"]["code"]) == (403, "forbidden")
        assert (await delete(url, "ada"))[0] == 403
        assert "takes no uploads" in (await get(url, "/v1/actors"))["uploads"]["why_not"]
    async with running(host="0.0.0.0", uploads=UploadConfig(folder=tmp_path / "uploads")) as url:
        assert "token" in (await upload(url, form(zipped(package))))[1]["error"]["message"]
    async with running(token="sesame", uploads=UploadConfig(folder=tmp_path / "uploads")) as url:
        assert (await upload(url, form(zipped(package))))[0] == 401
        right = {"Authorization": "Bearer sesame"}
        assert (await upload(url, form(zipped(package)), **right))[0] == 201
        assert (await delete(url, "tiny"))[0] == 401


async def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, package: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with running(uploads=UploadConfig(folder=tmp_path / "file" / "uploads", free_mb=0)) as url:
        status, answer = await upload(url, form(zipped(package)))
        assert (status, answer["error"]["code"]) == (507, "cannot_write")
        assert str(tmp_path) not in answer["error"]["message"]


@pytest.mark.parametrize("kind", ["video", "package"])
async def test_without_mediapipe_a_video_is_refused_with_what_to_install_and_a_package_is_not(
    tmp_path: Path, package: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; sys.modules['mediapipe'] = None; from server.actors.maker import main; main()"
    monkeypatch.setattr("server.actors.making.COMMAND", (sys.executable, "-c", program))
    monkeypatch.setattr("server.actors.routes.has_mediapipe", lambda: False)
    async with serving(tmp_path / "uploads") as url:
        assert "make actors" in (await get(url, "/v1/actors"))["uploads"]["why_no_video"]
        content = zipped(package) if kind == "package" else TALKING_FACE.read_bytes()
        status, answer = await upload(url, form(content, name="me" if kind == "video" else ""))
        if kind == "package":
            assert (status, answer) == (201, {"name": "tiny"})
        else:
            assert (status, answer["error"]["code"]) == (501, "engine_failed")
            assert "make actors" in answer["error"]["message"]


async def test_a_package_that_was_altered_is_refused(tmp_path: Path, package: Path) -> None:
    card = package / "actor.toml"
    text = card.read_text()
    async with serving(tmp_path / "uploads") as url:
        for changed, reason in (
            (re.sub(r"^format = \d+", "format = 99", text), "newer mytalk"),
            (re.sub(r"\nconsent = .*", '\nconsent = ""', text), "agreed"),
            (text + "\n[more]\n", "unknown key"),
        ):
            card.write_text(changed)
            status, answer = await upload(url, form(zipped(package)))
            assert (status, reason in answer["error"]["message"]) == (422, True)
            assert str(tmp_path) not in answer["error"]["message"]
        card.write_text(text)
        (package / "reference_0.png").write_bytes((package / "reference_1.png").read_bytes())
        status, answer = await upload(url, form(zipped(package)))
        assert (status, "altered" in answer["error"]["message"]) == (422, True)


async def test_pages_of_other_sites_are_refused(tmp_path: Path, package: Path) -> None:
    async with serving(tmp_path / "uploads") as url:
        for origin, status in (("https://evil.example", 403), ("null", 403), (url, 201)):
            got, answer = await upload(url, form(zipped(package)), Origin=origin)
            assert got == status
            assert status == 201 or answer["error"]["code"] == "wrong_origin"
        async with aiohttp.ClientSession(headers={"Origin": "https://evil.example"}) as http:
            assert (await http.delete(f"{url}/v1/actors/tiny")).status == 403
            assert (await http.get(f"{url}/v1/actors")).status == 200
        assert (await delete(url, "tiny"))[0] == 200
