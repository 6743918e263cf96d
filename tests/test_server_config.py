"""Server settings: where they come from, who wins, and one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config import ConfigError, ServerConfig, from_mapping, is_loopback, parse


def test_defaults() -> None:
    config = parse([], {})
    assert (config.host, config.port, config.engine, config.token) == ("127.0.0.1", 8080, "auto", None)
    assert config.is_loopback
    assert config.scheme == "http"


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 9000\nmax_sessions = 7\nactors = ["a", "b"]\n[session]\nhop_frames = 3\n')
    config = parse(["--config", str(file), "--port", "9100"], {})
    assert (config.port, config.max_sessions, config.session.hop_frames) == (9100, 7, 3)
    assert config.actors == (Path("a"), Path("b"))


def test_the_token_comes_from_the_environment_and_is_not_shown() -> None:
    config = parse([], {"MYTALK_TOKEN": "sesame"})
    assert config.token == "sesame"
    assert "sesame" not in repr(config)
    assert parse(["--token", "other"], {"MYTALK_TOKEN": "sesame"}).token == "other"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown setting 'prot'"),
        ('port = "80"', "port must be a whole number"),
        ("port = true", "port must be a whole number"),
        ("port = 70000", "port must be 0..65535"),
        ("host = 1", "host must be a string"),
        ("actors = 'x'", "actors must be a list"),
        ("session = 3", "session must be a table"),
        ("[session]\nhops = 3", "unknown session setting 'hops'"),
        ("max_sessions = 0", "max_sessions"),
        ("shutdown_deadline_s = 0", "deadlines"),
        ("port = ", "is not TOML"),
        ("token = 'x'", "MYTALK_TOKEN"),
        ("cert_file = 'x'", "belong together"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        parse(["--config", str(file)], {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "argv", [["--port", "x"], ["--prot", "1"], ["stray"], ["--config", "/nonexistent.toml"], ["--token", ""]]
)
def test_a_bad_command_line_is_one_line(argv: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse(argv, {})
    assert "\n" not in str(error.value)


def test_help_names_every_flag_and_the_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--help"], {})
    assert stop.value.code == 0
    text = capsys.readouterr().out
    flags = (
        "--host --port --actor --engine --config --cert-file --key-file --token --max-sessions MYTALK_TOKEN"
    )
    assert all(flag in text for flag in flags.split())


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
    ],
)
def test_loopback_hosts(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        from_mapping({}).port = 1  # type: ignore[misc]
    assert from_mapping({}) == ServerConfig()
