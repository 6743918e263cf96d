"""The public port of several processes: HTTP and speech sockets go to the one whose session it is.

Pictures and sound do not pass it: they go by UDP between a client and its process. Token, origin and size of
a request are checked here and once more in the process, which gets the client's own headers, few by name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web
from prometheus_client import CollectorRegistry, Counter, generate_latest

from mytalk.errors import MyTalkError, Overloaded
from server.actors.uploads import NotYours
from server.app import HEARTBEAT_S, PAGE, page
from server.config import ServerConfig
from server.guard import Guard
from server.many.figures import CONTENT_TYPE, merged
from server.many.routing import Member, in_order, owner_of
from server.sessions import ANSWER_DEADLINE_S, NoSuchSession
from server.speech_socket import SOCKET_MAX_BYTES

CONNECTIONS = 1024  # to the processes, open sockets of speech included; further requests wait their time
HEALTH_S = 1.0  # a process that has not answered by then counts as silent
ANSWER_S = ANSWER_DEADLINE_S + 5.0
# what else a client sends (X-Forwarded-…, cookies) ends here
REQUEST_HEADERS = ("Host", "Origin", "Authorization", "Content-Type", "Accept")
ANSWER_HEADERS = ("Content-Type", "Cache-Control", "Retry-After", "WWW-Authenticate")
STAY = ("actor_preparing",)  # a 503 that another process would only repeat, having begun the same work
Answer = tuple[int, dict[str, str], bytes]


class Front:
    """Its handlers; ``members`` are kept up to date by who starts and ends them."""

    def __init__(self, config: ServerConfig, members: Sequence[Member]) -> None:
        self._config, self._members = config, members
        self._http: aiohttp.ClientSession | None = None
        self._registry = CollectorRegistry()
        self._refused = Counter(
            "mytalk_requests_refused",
            "Requests answered with an error",
            ["status"],
            registry=self._registry,
        )

    async def open(self) -> None:
        """Get ready to ask processes."""
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ANSWER_S),
        )

    async def close(self) -> None:
        """Idempotent."""
        if self._http is not None:
            await self._http.close()

    def app(self) -> web.Application:
        """The application that serves them."""
        app = Guard(self._config, lambda status: self._refused.labels(str(status)).inc()).app()
        app.add_routes(
            [
                web.get("/", page),
                web.static("/static", PAGE),
                web.get("/healthz", self._health),
                web.get("/metrics", self._figures),
                web.get("/v1/actors", self._any),
                web.get("/v1/actors/{name}/poster", self._any),
                web.post("/v1/actors", self._no_uploads),
                web.delete("/v1/actors/{name}", self._no_uploads),
                web.post("/offer", self._offer),
                web.delete("/v1/sessions/{id}", self._owner),
                web.get("/v1/sessions/{id}/stats", self._owner),
                web.get("/v1/sessions/{id}/speech", self._speech),
            ]
        )
        return app

    async def health(self, member: Member) -> dict[str, Any] | None:
        """What a process says of itself, noted in ``member``; None when it says nothing."""
        assert self._http is not None
        try:
            async with self._http.get(
                f"{member.url}/healthz", timeout=aiohttp.ClientTimeout(total=HEALTH_S)
            ) as response:
                said: dict[str, Any] = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            member.answers = False
            return None
        member.answers, member.sessions, member.preparing = True, said["sessions"], said["preparing"]
        return said

    async def _ask_all(self) -> list[dict[str, Any] | None]:
        running = [member for member in self._members if member.is_running]
        said = dict(
            zip(
                [member.index for member in running],
                await asyncio.gather(*map(self.health, running)),
                strict=True,
            )
        )
        return [said.get(member.index) for member in self._members]

    async def _health(self, _request: web.Request) -> web.Response:
        said = await self._ask_all()
        answers = [answer for answer in said if answer is not None]
        status = "ok" if len(answers) == len(said) else "degraded" if answers else "down"
        body: dict[str, Any] = {
            **(answers[0] if answers else {}),
            "status": status,
            "sessions": sum(answer["sessions"] for answer in answers),
            "max_sessions": sum(answer["max_sessions"] for answer in answers),
            "preparing": sorted({name for answer in answers for name in answer["preparing"]}),
            "processes": [
                {
                    "state": "silent" if member.is_running and not member.answers else member.state.value,
                    "sessions": member.sessions,
                    "max_sessions": member.max_sessions,
                }
                for member in self._members
            ],
        }
        if answers:
            return web.json_response(body)
        return web.json_response(body, status=503, headers={"Retry-After": "5"})

    async def _figures(self, request: web.Request) -> web.Response:
        texts = {"front": generate_latest(self._registry).decode()}
        for member in [member for member in self._members if member.is_running]:
            try:
                status, _, body = await self._send(member, request, b"", timeout_s=HEALTH_S)
            except Overloaded:
                continue  # what the others count is still worth knowing
            if status == 200:
                texts[str(member.index)] = body.decode()
        up = {str(member.index): str(member.index) in texts for member in self._members}
        return web.Response(body=merged(texts, up), headers={"Content-Type": CONTENT_TYPE})

    async def _no_uploads(self, _request: web.Request) -> web.Response:
        raise NotYours(self._config.why_no_uploads or "this server takes no uploads")

    async def _any(self, request: web.Request) -> web.Response:
        for member in in_order(self._members, None):
            return _response(await self._send(member, request, b""))
        raise _nobody()

    async def _owner(self, request: web.Request) -> web.Response:
        return _response(await self._send(self._owner_of(request), request, b""))

    def _owner_of(self, request: web.Request) -> Member:
        session_id = request.match_info["id"]
        member = owner_of(self._members, session_id)
        if member is None:
            raise NoSuchSession(f"no session {session_id!r}")
        return member

    async def _offer(self, request: web.Request) -> web.Response:
        """Try the processes in order; the last refusal is the client's answer."""
        body = await request.read()
        await self._ask_all()
        actor, answer = _actor_of(body), None
        for member in in_order(self._members, actor):
            member.building += 1
            try:
                answer = await self._send(member, request, body)
            except Overloaded:
                continue  # it has just died: its end is noticed apart from this
            finally:
                member.building -= 1
            if answer[0] != 503 or _code_of(answer[2]) in STAY:
                break
        if answer is None:
            raise _nobody()
        return _response(answer)

    async def _send(
        self, member: Member, request: web.Request, body: bytes, timeout_s: float = ANSWER_S
    ) -> Answer:
        """Put a client's request to a process; raises ``Overloaded`` when nothing comes back."""
        assert self._http is not None
        try:
            async with self._http.request(
                "GET" if request.method == "HEAD" else request.method,
                f"{member.url}{request.rel_url}",
                headers=_some(request.headers, REQUEST_HEADERS),
                data=body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                return response.status, _some(response.headers, ANSWER_HEADERS), await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Overloaded("the process that this was for does not answer; try again") from error

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        assert self._http is not None
        socket = web.WebSocketResponse(max_msg_size=SOCKET_MAX_BYTES, heartbeat=HEARTBEAT_S)
        if not socket.can_prepare(request).ok:
            raise web.HTTPBadRequest(reason="a WebSocket is spoken here")
        member = self._owner_of(request)
        try:
            inner = await self._http.ws_connect(
                f"{member.url}{request.rel_url}",
                headers=_some(request.headers, REQUEST_HEADERS),
                max_msg_size=SOCKET_MAX_BYTES,
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 404:
                raise NoSuchSession(f"no session {request.match_info['id']!r}") from error
            raise MyTalkError(f"the process refused the socket with status {error.status}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Overloaded("the process of this session does not answer; try again") from error
        async with inner:
            await socket.prepare(request)
            await _join(socket, inner)
        return socket


async def _join(outer: web.WebSocketResponse, inner: aiohttp.ClientWebSocketResponse) -> None:
    """Carry messages both ways until one side closes, then close the other with the same code.

    One message at a time each way: who does not read stops who sends, by TCP.
    """
    ways = {asyncio.create_task(_carry(outer, inner)), asyncio.create_task(_carry(inner, outer))}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        ended = inner if inner.closed else outer
        await outer.close(code=_sendable(ended.close_code))


async def _carry(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    async for message in source:
        if message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)


def _sendable(code: int | None) -> int:
    """A close code that may be sent: 1006 and the like only say that none came."""
    return code if code is not None and (code in (1000, 1001, 1009, 1011) or code >= 3000) else 1001


def _some(headers: Any, names: Sequence[str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def _response(answer: Answer) -> web.Response:
    status, headers, body = answer
    return web.Response(status=status, headers=headers, body=body)


def _nobody() -> Overloaded:
    return Overloaded("no process serves at the moment; they are started again")


def _actor_of(body: bytes) -> str | None:
    """The actor that an offer names, as far as it can be read: the process checks it."""
    try:
        actor = json.loads(body)["actor"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return actor if isinstance(actor, str) else None


def _code_of(body: bytes) -> str | None:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return None
