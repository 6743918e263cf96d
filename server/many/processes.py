"""Several servers behind one port: started, watched, started again, none left without a supervisor.

A child gets its orders on stdin, which stays open: when it ends, the supervisor is gone, however it died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from mytalk.errors import MyTalkError
from server.config import ServerConfig
from server.many.front import Front
from server.many.routing import STEADY_S, Member, State, pause_s, shares

logger = logging.getLogger(__name__)
COMMAND = (sys.executable, "-c", "import sys; from server.__main__ import child; sys.exit(child())")
STDIN = 0
LOOK_EVERY_S = 0.1  # whether a process that starts serves already
STOP_SHARE = 0.8  # of the shutdown deadline, for processes to end by themselves
GRACE_S = 1.0  # beyond the deadline, for a child whose supervisor is gone


class ProcessFailed(MyTalkError):
    """A process ended before it served anybody, having said why on stderr. status: its exit status."""

    code = "cannot_start"

    def __init__(self, index: int, status: int) -> None:
        super().__init__(f"process {index} ended with status {status} before it served anybody")
        self.status = status if status > 0 else 1


@dataclass(frozen=True)
class Orders:
    """What a child is told. load: where engine and actors come from, None = as usual; found by its name."""

    index: int
    config: ServerConfig
    load: Callable[[ServerConfig], Any] | None
    listener_fd: int


def take_orders() -> tuple[Orders, socket.socket]:
    """In a child: its orders and the bound socket to listen on; from then on it ends with stdin."""
    # from our own parent's pipe, which nobody else can write to
    with os.fdopen(os.dup(STDIN), "rb") as pipe:
        orders: Orders = pickle.load(pipe)
    limit_s = orders.config.shutdown_deadline_s + GRACE_S
    threading.Thread(target=_end_with_stdin, args=(limit_s,), name="lifeline", daemon=True).start()
    return orders, socket.socket(fileno=orders.listener_fd)


def _end_with_stdin(limit_s: float) -> None:
    # not sys.stdin: the interpreter cannot end while a thread holds its lock
    while os.read(STDIN, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # sessions are told, if there is a loop that can
    time.sleep(limit_s)
    os._exit(1)


class _Child:
    """One process, over and over, until it is stopped."""

    def __init__(self, member: Member, config: ServerConfig, load: Any, front: Front) -> None:
        self.member, self._config, self._load, self._front = member, config, load, front
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and keep it; returns when it serves. Raises ``ProcessFailed`` when it ends before."""
        await self._launch()
        self._keeping = asyncio.create_task(self._keep(), name=f"process {self.member.index}")

    async def _launch(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))  # refuses connections until the child listens
            port = listener.getsockname()[1]
            orders = Orders(self.member.index, self._config, self._load, listener.fileno())
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(listener.fileno(),),
                start_new_session=True,  # Ctrl-C is for the supervisor, which then ends the others in order
            )
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(pickle.dumps(orders))
            await self._process.stdin.drain()
        self.member.url = f"http://127.0.0.1:{port}"
        while self._process.returncode is None:
            if await self._front.health(self.member) is not None:
                self.member.become(State.RUNNING)
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), LOOK_EVERY_S)
        raise ProcessFailed(self.member.index, self._process.returncode)

    async def _keep(self) -> None:
        """Wait for its end and start it again, for ever; a pause before it, longer after each failure."""
        failures, loop = 0, asyncio.get_running_loop()
        while True:
            begin_s = loop.time()
            assert self._process is not None
            status = await self._process.wait()
            self.member.become(State.WAITING)
            failures = 1 if loop.time() - begin_s > STEADY_S else failures + 1
            pause = pause_s(failures)
            logger.error(
                "process %d ended with status %d, its sessions with it; it is started again in %.1f s",
                self.member.index,
                status,
                pause,
            )
            await asyncio.sleep(pause)
            self.member.become(State.STARTING)
            try:
                await self._launch()
                logger.info("process %d serves again", self.member.index)
            except (ProcessFailed, OSError) as error:
                logger.error("process %d cannot be started: %s", self.member.index, error)

    async def stop(self, deadline_s: float) -> None:
        """End it, by force after the deadline; idempotent."""
        self.member.become(State.STOPPED)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), deadline_s)
        except TimeoutError:
            logger.warning("process %d did not end in time and is killed", self.member.index)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class Supervisor:
    """The processes and the front before them, in the order in which they start and end."""

    def __init__(self, config: ServerConfig, load: Callable[[ServerConfig], Any] | None) -> None:
        """load: as for ``Orders``."""
        parts = shares(config)
        members = [Member(index, part.max_sessions) for index, part in enumerate(parts)]
        self._config = config
        self._front = Front(config, members)
        self._children = [
            _Child(member, part, load, self._front) for member, part in zip(members, parts, strict=True)
        ]
        # no access log: it would write down tokens of page and WebSocket addresses
        self._runner = web.AppRunner(self._front.app(), access_log=None, shutdown_timeout=0.5)

    async def startup(self) -> None:
        """Start the processes. Raises ``ProcessFailed``."""
        await self._front.open()
        first, *others = self._children
        # alone: what it measures (the fastest engine) and prepares (actors) the others find on disk
        await first.start()
        await asyncio.gather(*(child.start() for child in others))

    async def listen(self, listener: socket.socket, tls: ssl.SSLContext | None, backlog: int) -> None:
        """Accept connections. Raises ``OSError``."""
        await self._runner.setup()
        await web.SockSite(self._runner, listener, ssl_context=tls, backlog=backlog).start()

    async def shutdown(self) -> None:
        """End everything within the deadline; idempotent."""
        deadline_s = STOP_SHARE * self._config.shutdown_deadline_s
        await asyncio.gather(*(child.stop(deadline_s) for child in self._children))
        await self._runner.cleanup()
        await self._front.close()
