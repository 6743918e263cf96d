"""Server settings: built-in defaults < TOML file < command line; secrets from the environment only."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mytalk.config import SessionConfig
from mytalk.engines import default_bundle
from mytalk.errors import MyTalkError
from server.actors.upload_config import UploadConfig
from server.origin import is_origin
from server.rtc.udp_ports import PORTS_PER_SESSION, PortRange, parse_ports
from server.rtc.video_encoder import ENCODERS

ROOT = Path(__file__).resolve().parents[1]
TOKEN_VARIABLE = "MYTALK_TOKEN"
MOST_PROCESSES = 64


class ConfigError(MyTalkError):
    """The settings cannot be used; the message is one line for the person at the terminal."""

    code = "bad_config"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """All that ``python -m server`` can be told, by flags or by the same names in a ``--config`` file.

    host, port: where HTTP listens; port 0 takes any free one.
    actor: who speaks when an offer names nobody; None = the first one found.
    engine: inference engine by name. bundle: folder of the trained weights. lanes: engine calls at the same
        time, None = as many as there are cores for. threads: CPU threads of each, None = the cores' share.
    actors: folders whose sub-folders are actor packages. loaded_actors: how many are loaded at the start
        and kept in memory; others are loaded when they are asked for. actor_memory_mb: memory for all of
        them; those that nobody uses leave it, least recently used first.
    cache: folder where prepared actors are kept, so that a second start takes seconds. cache_mb: its size.
    cert_file, key_file: PEM files; https is served when both are given.
    token: secret that clients must show; None = open to everybody who reaches the port.
    allow_origin: origins (``https://host``) whose web pages may use the server besides its own; ``*``: all.
    max_sessions: people served at once; the next one gets 503. admit_all: up to that number let everybody
        in, also those who would not fit by what sessions were measured to cost.
    processes: servers behind the one port, which share sessions, cores and UDP ports; 1 = no front.
    stun: STUN server URLs for sessions beyond the local network; none by default.
    udp_ports: UDP ports that WebRTC may use, None = any free one.
    video_bits_per_s: start bit rate of the video, and its ceiling is twice that.
    video_encoder: ``libx264`` or ``h264_nvenc`` (H.264), or ``vp8``; ``auto`` takes what works, a card
        first. A client that lacks the codec gets the other one.
    max_body_bytes: largest request body.
    connect_deadline_s: a peer that has not connected by then is given up.
    vanish_after_s: a peer that answers nothing for about so long is gone.
    shutdown_deadline_s: all sessions are closed within this time on Ctrl-C or SIGTERM.
    session: settings of every talking session (design: one clock). uploads: settings of uploaded actors.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    actor: str | None = None
    engine: str = "auto"
    bundle: Path = field(default_factory=default_bundle)
    lanes: int | None = None
    threads: int | None = None
    actors: tuple[Path, ...] = (ROOT / "actors",)
    loaded_actors: int = 3
    actor_memory_mb: int = 2000
    cache: Path = ROOT / ".cache" / "actors"
    cache_mb: int = 4000
    cert_file: Path | None = None
    key_file: Path | None = None
    token: str | None = field(default=None, repr=False)
    allow_origin: tuple[str, ...] = ()
    max_sessions: int = 4
    admit_all: bool = False
    processes: int = 1
    stun: tuple[str, ...] = ()
    udp_ports: PortRange | None = None
    video_bits_per_s: int = 2_000_000
    video_encoder: str = "auto"
    max_body_bytes: int = 256 * 1024
    connect_deadline_s: float = 20.0
    vanish_after_s: float = 15.0
    shutdown_deadline_s: float = 5.0
    session: SessionConfig = field(default_factory=SessionConfig)
    uploads: UploadConfig = field(default_factory=UploadConfig)

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        problems = [
            (not 0 <= self.port <= 65535, f"port must be 0..65535, not {self.port}"),
            (self.max_sessions < 1, f"max_sessions must be at least 1, not {self.max_sessions}"),
            (
                not 1 <= self.processes <= MOST_PROCESSES,
                f"processes must be 1..{MOST_PROCESSES}, not {self.processes}",
            ),
            (self.loaded_actors < 1, f"loaded_actors must be at least 1, not {self.loaded_actors}"),
            (
                min(self.threads or 1, self.lanes or 1) < 1 or 0 in (self.threads, self.lanes),
                f"threads and lanes must be at least 1, not {self.threads} and {self.lanes}",
            ),
            (min(self.actor_memory_mb, self.cache_mb) < 1, "actor_memory_mb and cache_mb must be at least 1"),
            (self.max_body_bytes < 1024, "max_body_bytes must be at least 1024"),
            (
                self.video_encoder not in ENCODERS,
                f"video_encoder must be one of {', '.join(ENCODERS)}, not {self.video_encoder!r}",
            ),
            (self.video_bits_per_s < 100_000, "video_bits_per_s must be at least 100000"),
            (
                min(self.connect_deadline_s, self.vanish_after_s, self.shutdown_deadline_s) <= 0,
                "deadlines must be above 0 seconds",
            ),
            (not self.actors, "actors names no folder"),
            (
                self.udp_ports is not None and len(self.udp_ports) < PORTS_PER_SESSION * self.max_sessions,
                f"udp_ports: {self.udp_ports} are {len(self.udp_ports or ())} ports,"
                f" and {self.max_sessions} sessions need {PORTS_PER_SESSION * self.max_sessions}",
            ),
            ((self.cert_file is None) != (self.key_file is None), "cert-file and key-file belong together"),
            (
                not all(map(is_origin, self.allow_origin)),
                "allow_origin takes origins such as https://a.example, or *",
            ),
            (self.token == "", "the token is empty; leave it out to let everybody in"),
            (self.token is not None and not self.token.isascii(), "the token must be ASCII"),
        ]
        for bad, message in problems:
            if bad:
                raise ConfigError(message)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    @property
    def why_no_uploads(self) -> str | None:
        """One line on why nobody may upload or delete actors; None when everybody (with the token) may."""
        if not self.uploads.enabled:
            return "this server takes no uploads"
        if self.processes > 1:
            return "a server of several processes takes no uploads; run it with --processes 1 to upload"
        if not self.is_loopback and self.token is None:
            return f"a server that others can reach takes uploads only with a token ({TOKEN_VARIABLE})"
        return None

    @property
    def scheme(self) -> str:
        """``https`` with a certificate, else ``http``."""
        return "http" if self.cert_file is None else "https"


def is_loopback(host: str) -> bool:
    """Whether a bind address is this machine's own (127.0.0.0/8, ::1, localhost)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse(argv: Sequence[str], environment: Mapping[str, str]) -> ServerConfig:
    """Settings from a command line and an environment; raises ``ConfigError`` (``--help`` exits)."""
    arguments = vars(_parser().parse_args(argv))
    settings: dict[str, Any] = {}
    config_file = arguments.pop("config")
    if config_file is not None:
        settings.update(_read_file(config_file))
    uploads = {"folder": arguments.pop("uploads")} | (
        {"enabled": False} if arguments.pop("no_uploads") else {}
    )
    settings.update({name: value for name, value in arguments.items() if value is not None})
    told = {name: value for name, value in uploads.items() if value is not None}
    if told and isinstance(settings.get("uploads", {}), dict):
        settings["uploads"] = {**settings.get("uploads", {}), **told}
    if environment.get(TOKEN_VARIABLE):
        settings.setdefault("token", environment[TOKEN_VARIABLE])
    return from_mapping(settings)


def from_mapping(settings: Mapping[str, Any]) -> ServerConfig:
    """A config from plain TOML values; unknown keys and wrong types raise ``ConfigError``."""
    known = {item.name for item in dataclasses.fields(ServerConfig)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return ServerConfig(**{name: _value(name, value) for name, value in settings.items()})


_INTEGERS = {
    "port",
    "lanes",
    "threads",
    "loaded_actors",
    "actor_memory_mb",
    "cache_mb",
    "max_sessions",
    "processes",
    "video_bits_per_s",
    "max_body_bytes",
}
_SECONDS = {"connect_deadline_s", "vanish_after_s", "shutdown_deadline_s"}
_SWITCHES = {"admit_all"}
_LISTS = {"actors", "stun", "allow_origin"}
_TABLES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "session": SessionConfig.from_mapping,
    "uploads": UploadConfig.from_mapping,
}
_PATHS = {"bundle", "cache", "cert_file", "key_file"}


def _value(name: str, value: Any) -> Any:
    if name in _TABLES:
        return _table(name, value)
    if name == "udp_ports":
        return _ports(value)
    if name in _INTEGERS and (isinstance(value, bool) or not isinstance(value, int)):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    if name in _SECONDS and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ConfigError(f"{name} must be a number of seconds, not {value!r}")
    if name in _LISTS:
        if not isinstance(value, list) or not all(isinstance(item, str | Path) for item in value):
            raise ConfigError(f"{name} must be a list of strings, not {value!r}")
        return tuple(Path(item) for item in value) if name == "actors" else tuple(value)
    if name in _PATHS and isinstance(value, str | Path):
        return Path(value)
    if name in _SWITCHES and not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, not {value!r}")
    if name not in _INTEGERS | _SECONDS | _SWITCHES and not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, not {value!r}")
    return value


def _ports(value: Any) -> PortRange:
    if not isinstance(value, str):
        raise ConfigError(f"udp_ports must be a string, not {value!r}")
    try:
        return parse_ports(value)
    except ValueError as error:
        raise ConfigError(f"udp_ports: {error}") from error


def _table(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be a table")
    try:
        return _TABLES[name](value)
    except (MyTalkError, ValueError, TypeError) as error:
        raise ConfigError(f"{name}: {error}") from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    if "token" in settings:
        raise ConfigError(f"{path}: the token is a secret; set {TOKEN_VARIABLE} in the environment instead")
    return settings


class _Parser(argparse.ArgumentParser):
    """argparse that reports in one line, like every other error of ours."""

    def error(self, message: str) -> Any:
        raise ConfigError(re.sub(r"\s+", " ", message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m server",
        description="Serve talking actors: open the printed address in a browser, press the button and talk.",
        epilog=f"Settings of the --config file have the same names (with _ for -), plus the tables [session] "
        f"and [uploads]. {TOKEN_VARIABLE} in the environment sets the token. Stop with Ctrl-C.",
        allow_abbrev=False,
    )
    where = parser.add_argument_group("where it listens")
    where.add_argument("--host", help="address to listen on (default 127.0.0.1; 0.0.0.0 = the whole network)")
    where.add_argument("--port", type=int, help="port to listen on (default 8080; 0 = any free one)")
    where.add_argument(
        "--cert-file",
        type=Path,
        metavar="PEM",
        help="certificate; with --key-file, https is served. Browsers refuse the microphone on plain http "
        "from any machine but this one",
    )
    where.add_argument("--key-file", type=Path, metavar="PEM", help="private key of the certificate")
    where.add_argument(
        "--token",
        help=f"secret that clients must show (better: {TOKEN_VARIABLE}, which other users cannot see)",
    )
    where.add_argument(
        "--allow-origin",
        action="append",
        metavar="ORIGIN",
        help="let the web pages of another site use this server (https://a.example; * = all); repeatable",
    )
    what = parser.add_argument_group("what it serves")
    what.add_argument(
        "--actor", metavar="NAME", help="who speaks when a client names nobody (default: the first)"
    )
    what.add_argument(
        "--actors",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of actors, instead of the bundled ones; may be given several times",
    )
    what.add_argument("--max-sessions", type=int, metavar="N", help="people served at once (default 4)")
    what.add_argument(
        "--admit-all",
        action="store_true",
        default=None,
        help="let people in up to --max-sessions even when the machine is too slow for them",
    )
    what.add_argument(
        "--uploads",
        type=Path,
        metavar="DIR",
        help="folder of the actors that are uploaded (default my-actors)",
    )
    what.add_argument("--no-uploads", action="store_true", help="nobody may upload or delete actors")
    how = parser.add_argument_group("how it computes")
    how.add_argument("--engine", metavar="NAME", help="inference engine (default auto: the best one here)")
    how.add_argument("--bundle", type=Path, metavar="DIR", help="folder of the trained weights")
    how.add_argument(
        "--lanes", type=int, metavar="N", help="engine calls at the same time (default: one for each core)"
    )
    how.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of one engine call (default: the cores' share)"
    )
    how.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="servers behind the one port, where one process's sending is the limit (default 1)",
    )
    how.add_argument(
        "--video-encoder",
        choices=ENCODERS,
        metavar="NAME",
        help=f"what encodes the video: {', '.join(ENCODERS)} (default auto: a card's encoder, or libx264)",
    )
    parser.add_argument("--stun", action="append", metavar="URL", help="STUN server, as stun:host:port")
    parser.add_argument(
        "--udp-ports", metavar="LOW-HIGH", help="UDP ports that WebRTC may use (default: any free one)"
    )
    parser.add_argument(
        "--config", type=Path, metavar="TOML", help="file of settings; the flags above win over it"
    )
    return parser
