"""``python -m server``: read settings, load models, serve until Ctrl-C or SIGTERM, close everything."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Sequence

from aiohttp import web

from mytalk.errors import MyTalkError
from mytalk.render.prepared import PreparedCache
from mytalk.render.renderer import ENCODE_BATCH
from server.actors.cast import Cast, FolderCast, SharedRenderer
from server.actors.pool import MB, ActorPool
from server.actors.uploads import Uploads
from server.app import Routes, check_page
from server.compute.admission import Admission
from server.compute.device import Device, cores, lanes_and_threads
from server.compute.overseer import Overseer
from server.compute.worker import Worker
from server.config import TOKEN_VARIABLE, ConfigError, ServerConfig, parse
from server.many.processes import ProcessFailed, Supervisor, take_orders
from server.many.routing import prefix_of
from server.memory import give_back
from server.metrics import Metrics
from server.rtc import setup as rtc_setup
from server.rtc.idle_reel import IdleReel
from server.rtc.udp_ports import PortRange, loop_with_ports
from server.rtc.video_encoder import VP8, choose
from server.sessions import Sessions

logger = logging.getLogger("server")
BAD_SETTINGS, CANNOT_START = 2, 1  # exit codes
BACKLOG = 128
Load = Callable[[ServerConfig], Cast]


class CannotStart(MyTalkError):
    """The server cannot start; the message is one line."""

    code = "cannot_start"


def main(argv: Sequence[str] | None = None, load: Load | None = None) -> int:
    """Run the server; returns the exit code. ``load``: where engine and actors come from (fakes in tests)."""

    def run() -> None:
        config = parse(sys.argv[1:] if argv is None else argv, os.environ)
        _set_up_logging()
        with contextlib.closing(_bind(config)) as listener:
            tls = _tls(config)
            check_page()
            if config.processes > 1:
                with asyncio.Runner(loop_factory=_loop_factory(None)) as runner:
                    return runner.run(_serve_front(config, load, listener, tls))
            cast = (load or load_cast)(config)
            with asyncio.Runner(loop_factory=_loop_factory(config.udp_ports)) as runner:
                return runner.run(_serve(config, cast, listener, tls))

    return _exit_code(run)


def child() -> int:
    """One of several servers; what it needs comes from its supervisor (``server.many.processes``)."""

    def run() -> None:
        _set_up_logging()
        orders, listener = take_orders()
        with contextlib.closing(listener):
            cast = (orders.load or load_cast)(orders.config)
            with asyncio.Runner(loop_factory=_loop_factory(orders.config.udp_ports)) as runner:
                runner.run(_serve(orders.config, cast, listener, None, orders.index))

    return _exit_code(run)


def _exit_code(run: Callable[[], None]) -> int:
    """What became of it; errors are one line."""
    try:
        run()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_SETTINGS
    except ProcessFailed as error:
        return error.status  # the process has said why
    except MyTalkError as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_START
    except KeyboardInterrupt:
        pass  # stopped before it served anybody
    return 0


def load_cast(config: ServerConfig) -> FolderCast:
    """Engine and actors from disk; raises ``MyTalkError`` with one line."""
    # here, so that --help and bad settings answer at once
    from mytalk.engines import load_lasting_engine
    from mytalk.engines.buckets import buckets_up_to
    from mytalk.engines.warm import warm_up

    _, threads = lanes_and_threads(config.lanes, config.threads, cores() / config.processes)
    engine = load_lasting_engine(config.engine, config.bundle, threads)
    pictures = buckets_up_to(max(engine.batch, config.session.hop_frames))
    took_s = warm_up(engine, pictures, faces=(1, ENCODE_BATCH))
    logger.info(
        "engine %s warmed up in %.1f s (motion, encoding, %s pictures at once)",
        engine.name,
        took_s,
        "/".join(map(str, pictures)),
    )
    cache = PreparedCache(config.cache, config.cache_mb * MB)
    return FolderCast(engine, config.actors, clock=time.monotonic, cache=cache, uploads=config.uploads.folder)


class Server:
    """Everything that runs, in the order in which it starts and ends."""

    def __init__(self, config: ServerConfig, cast: Cast, id_prefix: str = "") -> None:
        """config: its video encoder is a certain one, not ``auto``. id_prefix: of session ids."""
        self._config = config
        self._metrics = Metrics()
        share = cores() / config.processes
        lanes, _ = lanes_and_threads(config.lanes, config.threads, share)
        self._device = Device(cast, lanes)
        self._worker = Worker(time.monotonic, self._device.plan)
        self._preloading: asyncio.Task[None] | None = None
        self._actors = ActorPool(
            cast,
            self._worker,
            self._metrics,
            capacity=config.loaded_actors,
            memory_bytes=config.actor_memory_mb * MB,
            make_reel=None if config.video_encoder == VP8 else self._reel,
        )
        admission = Admission(self._worker.lanes, share)
        self._overseer = Overseer(
            self._worker,
            self._metrics,
            admission,
            time.monotonic,
            preparing=lambda: bool(self._actors.preparing),
            tidy=give_back,
        )
        self._sessions = Sessions(
            config, self._actors, self._worker, self._metrics, time.monotonic, self._overseer, id_prefix
        )
        # fixed here: an actor that is uploaded later does not become the default by its name
        self._default_actor = config.actor or self._actors.names[0]
        self._uploads = Uploads(
            config.uploads, config.why_no_uploads, self._actors, self._metrics, self._default_actor
        )
        self._routes = Routes(
            config,
            self._actors,
            self._sessions,
            self._uploads,
            self._metrics,
            time.monotonic,
            self._default_actor,
        )
        # no access log: it would write down tokens of page and WebSocket addresses
        self._runner = web.AppRunner(self._routes.app(), access_log=None, shutdown_timeout=1.0)

    def _reel(self, renderer: SharedRenderer) -> IdleReel:
        return IdleReel(
            renderer.view.order,
            renderer.idle_picture,
            name=self._config.video_encoder,
            bits_per_s=self._config.video_bits_per_s,
        )

    async def startup(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Load the actor who speaks by default, then accept connections; others are loaded meanwhile."""
        actor = self._default_actor
        if actor not in self._actors.names:
            raise ConfigError(f"no actor {actor!r}; there are: {', '.join(self._actors.names)}")
        await asyncio.to_thread(self._uploads.clean)
        self._worker.start()
        await self._actors.preload(actor)
        self._preloading = asyncio.create_task(self._actors.preload_others(actor), name="other actors")
        self._overseer.start(self._sessions.conversations)
        await self._runner.setup()
        try:
            await web.SockSite(self._runner, listener, ssl_context=tls, backlog=BACKLOG).start()
        except OSError as error:  # two sockets may be bound to one port, but only one may listen
            raise _cannot_listen(self._config, error) from error

    async def shutdown(self) -> None:
        """Close every session and stop, within the deadline; idempotent."""
        try:
            async with asyncio.timeout(self._config.shutdown_deadline_s):
                await self._sessions.shut_down(self._config.shutdown_deadline_s * 0.7)
                await self._overseer.close()
                await self._uploads.close()
                await self._runner.cleanup()
                if self._preloading is not None:
                    self._preloading.cancel()
                    await asyncio.gather(self._preloading, return_exceptions=True)
                await self._actors.close()
                await self._worker.close()
                self._device.close()
        except TimeoutError:
            logger.warning("not everything ended in time")


async def _serve(
    config: ServerConfig,
    cast: Cast,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    process: int | None = None,
) -> None:
    """process: which of several this is, whose front announces them; None = the only one."""
    stop = _stop_on_signals()
    config = dataclasses.replace(config, video_encoder=choose(config.video_encoder))
    logger.info("video is encoded by %s", config.video_encoder)
    rtc_setup.set_up(
        video_bits_per_s=config.video_bits_per_s,
        loopback=config.is_loopback,
        vanish_after_s=config.vanish_after_s,
    )
    rtc_setup.expect_lost_peers(asyncio.get_running_loop())
    server = Server(config, cast, "" if process is None else prefix_of(process))
    try:
        if await _before(stop, server.startup(listener, tls)):
            _set_aside_what_stays()
            if process is None:
                _announce(config, listener)
            await stop.wait()
            logger.info("stopping")
    finally:
        await server.shutdown()


async def _serve_front(
    config: ServerConfig, load: Load | None, listener: socket.socket, tls: ssl.SSLContext | None
) -> None:
    stop = _stop_on_signals()
    supervisor = Supervisor(config, load)
    try:
        if await _before(stop, supervisor.startup()):
            try:
                await supervisor.listen(listener, tls, BACKLOG)
            except OSError as error:
                raise _cannot_listen(config, error) from error
            _announce(config, listener)
            await stop.wait()
            logger.info("stopping")
    finally:
        await supervisor.shutdown()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def _set_aside_what_stays() -> None:
    """Let Python's collector look only at what comes from now on.

    Ended calls leave rings of objects (aiortc's) that hold encoders. Looking through all that was loaded at
    the start takes 0.1 s, in which no picture leaves, and is done so rarely that they pile up.
    """
    gc.collect()
    gc.freeze()


async def _before(stop: asyncio.Event, startup: Coroutine[None, None, None]) -> bool:
    """Finish ``startup`` unless ``stop`` comes first; whether it finished."""
    starting = asyncio.create_task(startup)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    starting.result()
    return True


def _announce(config: ServerConfig, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    hint = "?token=…" if config.token else ""
    print(f"mytalk is ready: open {config.scheme}://{shown}:{port}/{hint} (Ctrl-C stops it)", flush=True)
    if not config.is_loopback:
        if config.scheme == "http":
            logger.warning(
                "browsers refuse the microphone on plain http beyond this machine:"
                " give --cert-file and --key-file"
            )
        if config.token is None:
            logger.warning(
                "everybody who reaches this port can talk: set %s to ask for a token", TOKEN_VARIABLE
            )


def _bind(config: ServerConfig) -> socket.socket:
    """Claim the port before anything slow; connections are refused until ``startup`` listens."""
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise _cannot_listen(config, error) from error
    return listener


def _cannot_listen(config: ServerConfig, error: OSError) -> CannotStart:
    if error.errno == errno.EADDRINUSE:
        return CannotStart(f"port {config.port} is in use on {config.host}; choose another with --port")
    return CannotStart(f"cannot listen on {config.host} port {config.port}: {error.strerror}")


def _tls(config: ServerConfig) -> ssl.SSLContext | None:
    if config.cert_file is None or config.key_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise CannotStart(f"cannot use {config.cert_file} with {config.key_file}: {error}") from error
    return context


def _loop_factory(ports: PortRange | None) -> Callable[[], asyncio.AbstractEventLoop]:
    kind: type[asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
    with contextlib.suppress(ImportError):
        import uvloop

        kind = uvloop.Loop
    return kind if ports is None else loop_with_ports(kind, ports)


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("aioice", "aiortc", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
