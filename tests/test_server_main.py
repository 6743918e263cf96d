"""The life of the server process: settings, start, signals, exit codes, one-line errors."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mytalk.errors import EngineFailed
from server.__main__ import main
from server.config import ServerConfig
from tests.server_fakes import FakeCast, calling

ROOT = Path(__file__).resolve().parents[1]
FAKE_SERVER = (
    "import sys; from server.__main__ import main; from tests.server_fakes import FakeCast;"
    "sys.exit(main(sys.argv[1:], load=lambda config: FakeCast()))"
)


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A server process with fake models; returns it and the URL that it printed."""
    command = [sys.executable, "-c", FAKE_SERVER, "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MYTALK_TOKEN": ""},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "mytalk is ready" in line, line + (process.stderr.read() if process.stderr else "")
    return process, next(word for word in line.split() if word.startswith("http")).rstrip("/")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_a_live_session_and_exit_code_0(number: signal.Signals) -> None:
    process, url = await asyncio.to_thread(start)
    try:
        async with calling(url) as client:
            await client.until(lambda: client.pictures)
            begin = time.monotonic()
            process.send_signal(number)
            code = await asyncio.to_thread(process.wait, 8)
            assert code == 0
            assert time.monotonic() - begin < 6
            await client.until(lambda: client.told("closed") or client.pc.connectionState == "closed")
    finally:
        process.kill()
        process.communicate()


def test_the_printed_address_answers_at_once() -> None:
    process, url = start("--max-sessions", "2")
    try:
        with urlopen(f"{url}/healthz", timeout=5) as response:
            assert response.status == 200
    finally:
        process.terminate()
        _, log = process.communicate(timeout=8)
    assert process.returncode == 0
    assert "Traceback" not in log


def test_a_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port)], load=lambda config: FakeCast()) == 1
    assert (
        capsys.readouterr().err == f"error: port {port} is in use on 127.0.0.1; choose another with --port\n"
    )


def one_line(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    return len(lines) == 1 and "Traceback" not in text


def test_bad_settings_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--port", "many"], ["--config", "/nonexistent"], ["--cert-file", "x.pem"]):
        assert main(arguments) == 2
        assert one_line(capsys.readouterr().err)
    assert main(["--port", "0", "--actor", "nobody"], load=lambda config: FakeCast()) == 2
    assert "no actor 'nobody'; there are: ada, bob" in capsys.readouterr().err


def test_models_that_cannot_be_loaded_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(config: ServerConfig) -> FakeCast:
        raise EngineFailed("no weights in that folder")

    assert main(["--port", "0"], load=broken) == 1
    assert capsys.readouterr().err == "error: no weights in that folder\n"
    assert main(["--port", "0", "--engine", "steam"]) == 1
    assert one_line(capsys.readouterr().err)
    assert main(["--port", "0", "--actors", "/nonexistent", "--bundle", "/nonexistent"]) == 1
    assert one_line(capsys.readouterr().err)


def test_a_certificate_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cert.pem"
    file.write_text("nonsense")
    arguments = ["--port", "0", "--cert-file", str(file), "--key-file", str(file)]
    assert main(arguments, load=lambda config: FakeCast()) == 1
    assert one_line(capsys.readouterr().err)


def certificate(folder: Path) -> list[str]:
    """A self-signed certificate for 127.0.0.1, as flags."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return ["--cert-file", str(folder / "cert.pem"), "--key-file", str(folder / "key.pem")]


def test_https_is_served_with_a_certificate(tmp_path: Path) -> None:
    process, url = start(*certificate(tmp_path))
    try:
        assert url.startswith("https://")
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        with urlopen(f"{url}/healthz", timeout=5, context=trusting) as response:
            assert response.status == 200
    finally:
        process.terminate()
        process.communicate(timeout=8)
    assert process.returncode == 0


def test_plain_http_beyond_this_machine_is_warned_about() -> None:
    process, url = start("--host", "0.0.0.0")
    assert url.startswith("http://")
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=8)
    assert process.returncode == 0
    assert "browsers refuse the microphone" in log
    assert "MYTALK_TOKEN" in log


def test_help_is_for_strangers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for flag in (
        "--host",
        "--port",
        "--actor",
        "--engine",
        "--config",
        "--cert-file",
        "--token",
        "--max-sessions",
    ):
        assert flag in done.stdout
