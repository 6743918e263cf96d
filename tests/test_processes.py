"""Real processes behind one port: sessions spread, one is killed, all are stopped, none is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.server_fakes import Client, calling

ROOT = Path(__file__).resolve().parents[1]
FAKE_SERVER = (
    "import sys; from server.__main__ import main; from tests.server_fakes import load_fake;"
    "sys.exit(main(sys.argv[1:], load=load_fake))"
)
COMMAND = [sys.executable, "-c", FAKE_SERVER, "--port", "0", "--processes", "2", "--video-encoder", "libx264"]
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def gone(pids: list[int], within_s: float = 15.0) -> bool:
    deadline_s = time.monotonic() + within_s
    while any(map(is_alive, pids)) and time.monotonic() < deadline_s:
        await asyncio.sleep(0.05)
    return not any(map(is_alive, pids))


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "MYTALK_TOKEN": ""},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "mytalk is ready" in line, line
        yield (
            process,
            next(word for word in line.split() if word.startswith("http")).partition("?")[0].rstrip("/"),
        )
    finally:
        process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


async def get(http: aiohttp.ClientSession, url: str) -> Any:
    async with http.get(url) as response:
        return await response.json()


async def speak(http: aiohttp.ClientSession, url: str, client: Client) -> None:
    """Push speech through the front's WebSocket until the session tells that it has begun to leave."""
    tone = (8000 * np.sin(np.arange(24_000) / 20)).astype("<i2").tobytes()
    async with (
        asyncio.timeout(20),
        http.ws_connect(f"{url}/v1/sessions/{client.session_id}/speech") as socket,
    ):
        await socket.send_json({"type": "start", "rate": 24_000})
        for at in range(0, len(tone), 16_000):
            await socket.send_bytes(tone[at : at + 16_000])
        await socket.send_json({"type": "end"})
        async for message in socket:
            if message.json()["type"] == "speech_started":
                return
    raise AssertionError("the socket closed before speech started")


async def test_sessions_spread_and_the_death_of_one_process_is_not_the_others() -> None:
    with serving() as (supervisor, url):
        async with aiohttp.ClientSession() as http, calling(url) as one, calling(url) as two:
            assert sorted(client.session_id[:2] for client in (one, two)) == ["0.", "1."]
            await speak(http, url, one)
            await speak(http, url, two)
            stats = await get(http, f"{url}/v1/sessions/{two.session_id}/stats")
            assert stats["session_id"] == two.session_id
            health = await get(http, f"{url}/healthz")
            assert (health["status"], health["sessions"], health["max_sessions"]) == ("ok", 2, 4)
            async with http.get(f"{url}/metrics") as response:
                assert 'mytalk_sessions{process="1"} 1.0' in await response.text()

            pids = children(supervisor.pid)
            assert len(pids) == 2
            victim = one if one.session_id.startswith("0.") else two
            other = two if victim is one else one
            os.kill(pids[0], signal.SIGKILL)  # numbers grow: the first is process 0
            assert await gone(pids[:1])
            seen = len(other.pictures)
            async with asyncio.timeout(30):
                while (await get(http, f"{url}/healthz"))["processes"][0]["state"] != "running":
                    await asyncio.sleep(0.05)
            await speak(http, url, other)
            await other.until(lambda: len(other.pictures) > seen + 5)
            async with http.get(f"{url}/v1/sessions/{victim.session_id}/stats") as response:
                assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_session")
            async with calling(url) as third:  # the process that returned is the emptier one
                assert third.session_id.startswith("0.")
            async with http.delete(f"{url}/v1/sessions/{other.session_id}") as response:
                assert (await response.json()) == {"closed": other.session_id}


async def test_a_signal_ends_all_within_the_deadline_and_sessions_are_told() -> None:
    with serving() as (supervisor, url):
        async with calling(url) as client:
            pids = children(supervisor.pid)
            begin_s = time.monotonic()
            supervisor.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(supervisor.wait, 15) == 0
            assert time.monotonic() - begin_s < 8  # the deadline is 5; the machine may be busy
            assert len(pids) == 2
            assert not any(map(is_alive, pids))
            await client.until(lambda: client.told("closed") or client.pc.connectionState == "closed")


async def test_no_process_outlives_a_supervisor_that_was_killed() -> None:
    with serving() as (supervisor, _):
        pids = children(supervisor.pid)
        assert len(pids) == 2
        supervisor.kill()
        assert await gone(pids)


async def test_the_token_is_needed_for_everything_and_speech_reaches_its_session_with_it() -> None:
    with serving("--token", "secret") as (_, url):
        async with aiohttp.ClientSession() as http:
            for method, path in (("POST", "/offer"), ("GET", "/v1/sessions/0.x/speech"), ("GET", "/metrics")):
                async with http.request(method, f"{url}{path}") as response:
                    assert response.status == 401
            shown = {"Authorization": "Bearer secret"}
            async with http.get(f"{url}/v1/actors", headers=shown) as response:
                assert "several processes" in (await response.json())["uploads"]["why_not"]
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(f"{url}/v1/sessions/0.x/speech?token=secret")
            assert refused.value.status == 404


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--actor", "nobody"], "error: no actor 'nobody'; there are: ada, bob"),
        (["--max-sessions", "1"], "error: processes: 2 processes share 1 sessions"),
    ],
)
def test_settings_that_cannot_be_are_one_line_and_exit_code_2(arguments: list[str], line: str) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert next(said for said in done.stderr.splitlines() if said.startswith("error: ")).startswith(line)
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
