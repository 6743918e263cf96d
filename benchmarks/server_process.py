"""A server of our own for a measurement: a subprocess on a free loopback port, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
START_S = 180.0  # a first start may have to prepare actors
STOP_S = 10.0


class ServerFailed(RuntimeError):
    """The server did not start; the message carries its last words."""


def free_port() -> int:
    """A TCP port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float | None:
    """User and system time of a process, its children and theirs; None where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children")  # which not every kernel has
        living = children.read_text().split() if children.exists() else []
    except OSError:
        return None
    # fields 14..17 of proc(5): utime, stime, cutime, cstime (of ended children); ")" is followed by field 3
    own_s = sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return own_s + sum(cpu_seconds(int(child)) or 0.0 for child in living)


class ServerProcess:
    """``with ServerProcess(arguments) as server`` starts ``python -m server`` and stops it again."""

    def __init__(
        self, arguments: Sequence[str] = (), command: Sequence[str] | None = None, *, patient: bool = True
    ) -> None:
        """arguments: more command line for the server. command: run instead of ``python -m server``.

        patient: wait until no actor is being prepared any more, which would disturb a measurement.
        """
        self._patient = patient
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        base = list(command) if command is not None else [sys.executable, "-m", "server"]
        self._command = [*base, "--host", "127.0.0.1", "--port", str(self.port), *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        # not a pipe: one that nobody reads would fill up and stop the server
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        if self._process is None:
            raise ServerFailed("the server is not running")
        return self._process.pid

    def __enter__(self) -> ServerProcess:
        """Start and wait until ``/healthz`` answers, and for actors that are being prepared."""
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, by force after a deadline."""
        self.stop()
        self._log.close()

    def stop(self) -> int | None:
        """Ask it to end and wait; returns its exit status. Safe to call twice."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode

    def log(self) -> str:
        """What the server has printed so far."""
        # pread leaves the position alone, which the writing process shares
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                words = self.log().strip().splitlines() or ["(it said nothing)"]
                raise ServerFailed(f"the server ended with status {self._process.returncode}: {words[-1]}")
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer:
                    if not (json.load(answer).get("preparing") and self._patient):
                        return
            except (urllib.error.URLError, OSError, ValueError):
                pass
            time.sleep(0.1)
        raise ServerFailed(f"the server was not healthy within {START_S:.0f} s")
