"""HTTP: the page, signalling, the speech WebSocket, health and figures. Every error is JSON with a code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from mytalk import __version__
from mytalk.errors import MyTalkError
from server.actors.pool import ActorPool
from server.actors.routes import ActorRoutes
from server.actors.uploads import Uploads
from server.config import ROOT, ServerConfig
from server.guard import Guard
from server.metrics import Metrics
from server.sessions import Sessions
from server.signalling import read_offer
from server.speech_socket import SOCKET_MAX_BYTES, Outbox, SpeechChannel, serve_socket

PAGE = ROOT / "clients" / "web"
HEARTBEAT_S = 20.0  # a WebSocket that answers no ping for half of this is closed


class Routes:
    """The handlers, with what they need."""

    def __init__(
        self,
        config: ServerConfig,
        actors: ActorPool,
        sessions: Sessions,
        uploads: Uploads,
        metrics: Metrics,
        clock: Callable[[], float],
        default_actor: str,
    ) -> None:
        """default_actor: who speaks when an offer names nobody."""
        self._config = config
        self._actors = actors
        self._default_actor = default_actor
        self._actor_routes = ActorRoutes(config, actors, uploads, default_actor)
        self._sessions = sessions
        self._metrics = metrics
        self._clock = clock

    def app(self) -> web.Application:
        """The application that serves them."""
        app = Guard(self._config, self._count_refused).app()
        app.add_routes(
            [
                web.get("/", page),
                web.get("/healthz", self._health),
                web.get("/metrics", self._figures),
                *self._actor_routes.routes(),
                web.post("/offer", self._offer),
                web.delete("/v1/sessions/{id}", self._close),
                web.get("/v1/sessions/{id}/stats", self._stats),
                web.get("/v1/sessions/{id}/speech", self._speech),
                web.static("/static", PAGE),
            ]
        )
        return app

    def _count_refused(self, status: int) -> None:
        self._metrics.refused.labels(str(status)).inc()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "status": "ok",
                "sessions": len(self._sessions),
                "max_sessions": self._config.max_sessions,
                "engine": self._actors.cast.engine_name,
                "actors": self._actors.names,
                "preparing": self._actors.preparing,
                "version": __version__,
            }
        )

    async def _figures(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": Metrics.CONTENT_TYPE})

    async def _offer(self, request: web.Request) -> web.Response:
        offer = read_offer(await request.read())
        actor = offer.actor or self._default_actor
        self._actors.check(actor)
        session_id, sdp = await self._sessions.open(offer, actor)
        return web.json_response({"sdp": sdp, "type": "answer", "session_id": session_id, "actor": actor})

    async def _close(self, request: web.Request) -> web.Response:
        await self._sessions.close(request.match_info["id"])
        return web.json_response({"closed": request.match_info["id"]})

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(self._sessions.conversation(request.match_info["id"]).stats())

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        conversation = self._sessions.conversation(request.match_info["id"])
        socket = web.WebSocketResponse(max_msg_size=SOCKET_MAX_BYTES, heartbeat=HEARTBEAT_S)
        await socket.prepare(request)
        outbox = Outbox(socket)

        def listen(message: dict[str, Any]) -> None:
            outbox.put(message)
            if message["type"] == "closed":
                outbox.finish()

        conversation.add_listener(listen)
        try:
            await serve_socket(socket, SpeechChannel(conversation, self._clock), outbox)
        finally:
            conversation.remove_listener(listen)
        return socket


async def page(_request: web.Request) -> web.StreamResponse:
    """The page itself."""
    return web.FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})


def check_page(folder: Path = PAGE) -> None:
    """Raise ``MyTalkError`` when the page is not where it belongs (a broken installation)."""
    if not (folder / "index.html").is_file():
        raise MyTalkError(f"the page {folder / 'index.html'} is missing")
