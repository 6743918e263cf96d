"""Zipped packages: only the package's own files, only into the given folder, only so large."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest

from mytalk.actors.actor import load_actor
from mytalk.actors.unpack import is_package, unpack
from mytalk.errors import BadInput
from tests.small_actor import write_small_actor

LIMIT = 10_000_000


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    folder = write_small_actor(tmp_path / "tiny")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def archive_of(tmp_path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = tmp_path / "package.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("inside", ["", "tiny/", "./"])
def test_a_package_at_the_top_or_in_a_folder(tmp_path: Path, files: dict[str, bytes], inside: str) -> None:
    extra = {f"__MACOSX/{inside}._actor.toml": b"x", f"{inside}.DS_Store": b"x"}
    path = archive_of(tmp_path, {inside + name: content for name, content in files.items()} | extra)
    assert is_package(path)
    out = tmp_path / "out"
    out.mkdir()
    unpack(path, out, LIMIT)
    assert sorted(item.name for item in out.iterdir()) == sorted(files)
    assert load_actor(out).card.name == "tiny"


@pytest.mark.parametrize(
    "name",
    [
        "../clip.mp4",
        "/etc/clip.mp4",
        "a/../../clip.mp4",
        "a/b/clip.mp4",
        "evil.sh",
        "tiny/actor.toml/../../x",
        "..\\clip.mp4",
    ],
)
def test_nothing_is_written_elsewhere(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    del files["clip.mp4"]
    path = archive_of(tmp_path, {**files, name: b"evil"})
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput) as error:
        unpack(path, out, LIMIT)
    assert error.value.code == "bad_package"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_is_a_plain_file(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = tmp_path / "package.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, b"/etc/passwd" if name == "clip.mp4" else content)
    out = tmp_path / "out"
    out.mkdir()
    unpack(path, out, LIMIT)
    assert not (out / "clip.mp4").is_symlink()
    with pytest.raises(BadInput, match="altered"):
        load_actor(out)


def test_a_bomb_is_stopped_whatever_it_claims(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = archive_of(tmp_path, {**files, "clip.mp4": bytes(5_000_000)})
    assert path.stat().st_size < 200_000
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadInput, match="larger than 1 MB"):
        unpack(path, out, 1_000_000)
    assert not list(out.iterdir())


def test_what_is_no_package(tmp_path: Path, files: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    cases = {
        "no actor.toml": {"clip.mp4": b"x"},
        "no actor package": {f"clip{i}.mp4": b"x" for i in range(65)},
        "twice": {"a/clip.mp4": b"x", "b/clip.mp4": b"y", "actor.toml": b""},
        "beside its files": {"a/clip.mp4": b"x", "b/actor.toml": b"y"},
    }
    for said, content in cases.items():
        with pytest.raises(BadInput, match=said):
            unpack(archive_of(tmp_path, content), out, LIMIT)
    path = archive_of(tmp_path, files, zipfile.ZIP_STORED)
    damaged = path.read_bytes().replace(files["clip.mp4"][100:200], bytes(100))
    path.write_bytes(damaged)
    with pytest.raises(BadInput, match="cannot be unpacked"):
        unpack(path, out, LIMIT)
    assert not is_package(write(tmp_path / "text", b"PK\x03\x04 and no more"))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_an_encrypted_archive_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    raw = io.BytesIO(archive_of(tmp_path, files).read_bytes())
    data = bytearray(raw.getvalue())
    for signature, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flag] |= 1
            at = data.find(signature, at + 1)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BadInput, match="cannot be unpacked"):
        unpack(write(tmp_path / "locked.zip", bytes(data)), out, LIMIT)
