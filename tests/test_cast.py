"""Actor packages in folders: found, shown, read, added and removed at run time."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from mytalk.errors import BadInput
from mytalk.render.prepared import PreparedCache
from server.actors.cast import TESTCARD, FolderCast
from tests.small_actor import fitting_engine, write_small_actor


def cast_of(*folders: Path, uploads: Path | None = None, cache: PreparedCache | None = None) -> FolderCast:
    return FolderCast(fitting_engine(), folders, clock=time.monotonic, cache=cache, uploads=uploads)


def test_a_poster_is_a_small_picture_of_the_actor(tmp_path: Path) -> None:
    write_small_actor(tmp_path / "ada", name="ada")
    cast = cast_of(tmp_path)
    picture = Image.open(io.BytesIO(cast.poster("ada")))
    assert picture.format == "JPEG"
    assert min(picture.size) <= 192
    assert cast.poster("testcard") == cast.poster("ada")


def test_no_actor_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no actors in"):
        cast_of(tmp_path)


def test_what_lies_in_the_folder_of_uploads_is_own(tmp_path: Path) -> None:
    write_small_actor(tmp_path / "bundled" / "zoe", name="zoe")
    write_small_actor(tmp_path / "uploads" / "ada", name="ada")
    cast = cast_of(tmp_path / "bundled", uploads=tmp_path / "uploads")
    assert [name for name, _ in cast.actors()] == ["ada", "zoe", TESTCARD]
    assert [cast.is_own(name) for name in ("ada", "zoe", TESTCARD, "nobody")] == [True, False, False, False]
    assert cast.poster(TESTCARD) == cast.poster("zoe"), "the test card is nobody who can be deleted"


def test_actors_come_and_go(tmp_path: Path) -> None:
    write_small_actor(tmp_path / "bundled" / "zoe", name="zoe")
    uploads = tmp_path / "uploads"
    cast = cast_of(tmp_path / "bundled", uploads=uploads)
    cast.add(write_small_actor(uploads / "ada", name="ada"))
    assert [name for name, _ in cast.actors()] == ["ada", "zoe", TESTCARD]
    assert cast.is_own("ada")
    assert cast.memory_bytes("ada") == 6 * 160 * 160 * 3
    assert cast.read("ada").progress == (0, 6)
    first = cast.poster("ada")
    assert cast.remove("ada") == uploads / "ada"
    assert not cast.is_own("ada")
    shutil.rmtree(uploads / "ada")
    cast.add(write_small_actor(uploads / "ada", frames=3, name="ada"))
    assert cast.memory_bytes("ada") == 3 * 160 * 160 * 3
    assert cast.poster("ada")[:2] == first[:2]


def test_an_altered_package_is_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = write_small_actor(tmp_path / "ada", name="ada")
    cast = cast_of(tmp_path)
    (folder / "reference_1.png").write_bytes(b"something else")
    with pytest.raises(BadInput, match="altered since"):
        cast.read("ada")


def test_what_the_cache_has_needs_no_preparing(tmp_path: Path) -> None:
    write_small_actor(tmp_path / "actors" / "ada", name="ada")
    cache = PreparedCache(tmp_path / "cache")
    renderer = cast_of(tmp_path / "actors", cache=cache).read("ada")
    renderer.prepare()
    while renderer.render_next_idle():
        pass
    renderer.keep()
    again = cast_of(tmp_path / "actors", cache=cache).read("ada")
    assert again.progress == (6, 6)
    assert not again.prepare_next()
    assert not again.render_next_idle()
