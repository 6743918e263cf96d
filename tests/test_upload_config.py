"""The [uploads] table and its flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from mytalk.errors import BadInput
from server.actors.upload_config import UploadConfig
from server.config import ConfigError, ServerConfig, parse


def test_a_table_and_flags_over_it(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[uploads]\nmax_mb = 5\nfolder = "here"\n')
    config = parse(["--config", str(file)], {}).uploads
    assert (config.max_mb, config.folder, config.enabled) == (5, Path("here"), True)
    config = parse(["--config", str(file), "--uploads", "there", "--no-uploads"], {}).uploads
    assert (config.max_mb, config.folder, config.enabled) == (5, Path("there"), False)
    assert parse([], {}).uploads == UploadConfig()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_mb = 0", "max_mb must be a whole number"),
        ("max_mb = true", "max_mb must be a whole number"),
        ("waiting = -1", "waiting must be"),
        ("enabled = 1", "enabled must be true or false"),
        ("folder = 3", "folder must be a path"),
        ("size = 3", "unknown uploads setting 'size'"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f"[uploads]\n{text}\n")
    with pytest.raises(ConfigError, match=said):
        parse(["--config", str(file)], {})
    file.write_text("uploads = 3\n")
    with pytest.raises(ConfigError, match="must be a table"):
        parse(["--config", str(file), "--no-uploads"], {})


def test_values_are_checked_however_it_is_built() -> None:
    with pytest.raises(BadInput):
        UploadConfig(deadline_s=0)


def test_who_may_upload() -> None:
    assert ServerConfig().why_no_uploads is None
    assert ServerConfig(host="0.0.0.0", token="x").why_no_uploads is None
    assert "token" in str(ServerConfig(host="0.0.0.0").why_no_uploads)
    assert "no uploads" in str(ServerConfig(uploads=UploadConfig(enabled=False)).why_no_uploads)


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/"])
def test_an_origin_that_no_browser_sends_is_an_error(origin: str) -> None:
    with pytest.raises(ConfigError, match="allow_origin takes origins"):
        parse(["--allow-origin", origin], {})
    assert parse(["--allow-origin", "https://a.example"], {}).allow_origin == ("https://a.example",)
