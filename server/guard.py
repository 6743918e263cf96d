"""What every HTTP application of ours asks first: token, origin; and its errors: JSON with a code."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from mytalk.errors import BadInput, EngineFailed, MyTalkError, Overloaded
from server.actors.making import MakeFailed
from server.actors.pool import ActorPreparing
from server.config import ServerConfig
from server.origin import SAFE_METHODS, answer_headers, is_allowed, preflight_headers

logger = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RETRY_AFTER_S = 5
OPEN_PATHS = ("/healthz", "/static/")  # no secrets there: the page's own files, and a probe's answer
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


class Guard:
    """Stands before the handlers of an application."""

    def __init__(self, config: ServerConfig, on_refused: Callable[[int], None]) -> None:
        """on_refused: is told the status of every answer that is an error."""
        self._config, self._on_refused = config, on_refused

    def app(self) -> web.Application:
        """An application without routes that is guarded."""
        app = web.Application(
            client_max_size=self._config.max_body_bytes,
            middlewares=[self._errors, self._check_origin, self._check_token],
        )
        app.on_response_prepare.append(self._allow_reading)
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
            self._on_refused(response.status)
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
