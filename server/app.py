"""HTTP: the page, signalling, the speech WebSocket, health and figures. Every error is JSON with a code."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from mytalk import __version__
from mytalk.errors import BadInput, EngineFailed, MyTalkError, Overloaded
from server.actor_routes import ActorRoutes
from server.actors import ActorPool, ActorPreparing
from server.config import ROOT, ServerConfig
from server.making import MakeFailed
from server.metrics import Metrics
from server.origin import SAFE_METHODS, answer_headers, is_allowed, preflight_headers
from server.sessions import Sessions
from server.signalling import read_offer
from server.speech_socket import SOCKET_MAX_BYTES, Outbox, SpeechChannel, serve_socket
from server.uploads import Uploads

logger = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE = ROOT / "clients" / "web"
RETRY_AFTER_S = 5
OPEN_PATHS = ("/healthz", "/static/")  # no secrets there: the page's own files, and a probe's answer
HEARTBEAT_S = 20.0  # a WebSocket that answers no ping for half of this is closed
STATUSES = {  # of errors by their code; others have the status of their class
    "unknown_session": 404,
    "unknown_actor": 404,
    "forbidden": 403,
    "upload_stalled": 408,
    "actor_exists": 409,
    "cancelled": 409,
    "upload_too_large": 413,
    "unsupported_media": 415,
    "disk_full": 507,
    "too_many_actors": 507,
    "cannot_write": 507,
}
CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def error_response(status: int, code: str, message: str, **headers: str) -> web.Response:
    """``{"error": {"code", "message"}}`` with a status."""
    return web.json_response({"error": {"code": code, "message": message}}, status=status, headers=headers)


def _response_for(error: MyTalkError) -> web.Response:
    if isinstance(error, ActorPreparing):
        body = {"code": error.code, "message": str(error), "done": error.done, "total": error.total}
        return web.json_response({"error": body}, status=503, headers={"Retry-After": "1"})
    if isinstance(error, Overloaded):
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        return error_response(503, error.code, str(error), **headers)
    return error_response(_status_of(error), error.code, str(error))


def _status_of(error: MyTalkError) -> int:
    if error.code in STATUSES:
        return STATUSES[error.code]
    if isinstance(error, MakeFailed):
        # what could be read and is no actor; or the server lacks what it takes to make one
        return 415 if error.refused else 501 if error.code == EngineFailed.code else 422
    return 400 if isinstance(error, BadInput) else 500


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
        app = web.Application(
            client_max_size=self._config.max_body_bytes,
            middlewares=[self._errors, self._check_origin, self._check_token],
        )
        app.on_response_prepare.append(self._allow_reading)
        app.add_routes(
            [
                web.get("/", self._page),
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

    @web.middleware
    async def _errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except MyTalkError as error:
            response = _response_for(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = error_response(error.status, CODES.get(error.status, "http_error"), error.reason)
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            response = error_response(500, "internal", "something broke in the server; its log says what")
        if isinstance(response, web.Response) and response.status >= 400:
            self._metrics.refused.labels(str(response.status)).inc()
        return response

    @web.middleware
    async def _check_origin(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Pages of other sites may not use the server through their visitors' browsers."""
        origin, others = request.headers.get("Origin"), self._config.allow_origin
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        if request.method in SAFE_METHODS and not is_socket:
            return await handler(request)
        if not is_allowed(origin, request.host, others):
            return error_response(403, "wrong_origin", "pages of other sites may not use this server")
        if request.method == "OPTIONS" and answer_headers(origin, request.host, others):
            return web.Response(status=204, headers=preflight_headers())
        return await handler(request)

    async def _allow_reading(self, request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        response.headers.update(answer_headers(origin, request.host, self._config.allow_origin))

    @web.middleware
    async def _check_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        token = self._config.token
        if token is None or request.path.startswith(OPEN_PATHS):
            return await handler(request)
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            shown = request.query.get("token", "")  # a browser cannot give a page or a WebSocket a header
        # a header may hold any bytes, which aiohttp hands on as lone surrogates
        if hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), token.encode()):
            return await handler(request)
        headers = {"WWW-Authenticate": "Bearer"}
        return error_response(
            401, "wrong_token", "show the server's token: Authorization: Bearer …", **headers
        )

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

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


def check_page(folder: Path = PAGE) -> None:
    """Raise ``MyTalkError`` when the page is not where it belongs (a broken installation)."""
    if not (folder / "index.html").is_file():
        raise MyTalkError(f"the page {folder / 'index.html'} is missing")
