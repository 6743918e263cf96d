"""The front before scripted processes: who is asked, what is passed on, what is not."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from server.config import ServerConfig
from server.many.front import Front
from server.many.routing import Member, State

OFFER = {"sdp": "v=0", "type": "offer", "actor": "bob"}


@dataclass
class Scripted:
    """A process that answers offers as it is told."""

    status: int = 200
    code: str = ""
    sessions: int = 0
    preparing: list[str] = field(default_factory=list)
    offers: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def app(self) -> web.Application:
        async def offer(request: web.Request) -> web.Response:
            self.offers += 1
            self.headers = dict(request.headers)
            if self.status == 200:
                return web.json_response({"session_id": "0.x"}, headers={"Set-Cookie": "a=b"})
            body = {"error": {"code": self.code, "message": "no", "done": 1, "total": 9}}
            return web.json_response(body, status=self.status, headers={"Retry-After": "1"})

        async def health(_request: web.Request) -> web.Response:
            return web.json_response(
                {
                    "sessions": self.sessions,
                    "max_sessions": 2,
                    "preparing": self.preparing,
                    "engine": "e",
                    "actors": ["bob"],
                }
            )

        app = web.Application()
        app.add_routes([web.post("/offer", offer), web.get("/healthz", health)])
        return app


Post = Callable[..., Awaitable[tuple[int, dict[str, Any], Any]]]


@contextlib.asynccontextmanager
async def fronted(
    *scripts: Scripted, **settings: Any
) -> AsyncIterator[tuple[str, list[Member], list[TestServer]]]:
    servers = [TestServer(script.app()) for script in scripts]
    for server in servers:
        await server.start_server()
    members = [
        Member(index, 2, State.RUNNING, url=str(server.make_url("")).rstrip("/"))
        for index, server in enumerate(servers)
    ]
    front = Front(ServerConfig(processes=max(2, len(scripts)), **settings), members)
    await front.open()
    public = TestServer(front.app())
    await public.start_server()
    try:
        yield str(public.make_url("")).rstrip("/"), members, servers
    finally:
        await public.close()
        await front.close()
        for server in servers:
            await server.close()


async def post(url: str, **options: Any) -> tuple[int, Any, Any]:
    options.setdefault("json", OFFER)
    async with aiohttp.ClientSession() as http, http.post(f"{url}/offer", **options) as response:
        return response.status, await response.json(), response.headers


async def test_a_full_process_passes_the_offer_on_to_the_next() -> None:
    full, free = Scripted(503, "too_many_sessions"), Scripted(sessions=1)
    async with fronted(full, free) as (url, _, _):
        assert (await post(url))[0] == 200
    assert (full.offers, free.offers) == (1, 1)


async def test_when_all_are_full_the_last_refusal_is_the_answer() -> None:
    async with fronted(Scripted(503, "machine_busy"), Scripted(503, "too_many_sessions", 1)) as (url, _, _):
        status, body, headers = await post(url)
    assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "too_many_sessions", "1")


async def test_a_bad_offer_is_not_tried_elsewhere() -> None:
    first, second = Scripted(400, "bad_sdp"), Scripted(sessions=1)
    async with fronted(first, second) as (url, _, _):
        assert (await post(url))[0] == 400
    assert second.offers == 0


async def test_an_actor_is_prepared_by_one_process_however_often_it_is_asked_for() -> None:
    busy, empty = Scripted(503, "actor_preparing", 1, ["bob"]), Scripted()
    async with fronted(empty, busy) as (url, _, _):
        for _ in range(3):
            status, body, _ = await post(url)
            assert (status, body["error"]["done"], body["error"]["total"]) == (503, 1, 9)
    assert (busy.offers, empty.offers) == (3, 0)


async def test_without_a_process_there_is_503_with_retry_after() -> None:
    async with fronted(Scripted(), Scripted()) as (url, members, _):
        members[0].become(State.WAITING)
        assert (await post(url))[0] == 200
        members[1].become(State.WAITING)
        status, body, headers = await post(url)
        assert (status, body["error"]["code"]) == (503, "overloaded")
        assert int(headers["Retry-After"]) > 0
        async with aiohttp.ClientSession() as http, http.get(f"{url}/healthz") as response:
            assert (response.status, (await response.json())["status"]) == (503, "down")


async def test_a_process_that_has_just_died_costs_nobody_a_session() -> None:
    other = Scripted(sessions=1)
    async with fronted(Scripted(), other) as (url, _, servers):
        await servers[0].close()
        assert (await post(url))[0] == 200
        async with aiohttp.ClientSession() as http, http.get(f"{url}/healthz") as response:
            health = await response.json()
    assert health["status"] == "degraded"
    assert [process["state"] for process in health["processes"]] == ["silent", "running"]
    assert (health["sessions"], health["max_sessions"]) == (1, 2)


async def test_only_headers_by_name_pass_the_front() -> None:
    script = Scripted()
    sent = {
        "Authorization": "Bearer s",
        "X-Forwarded-Host": "evil",
        "X-Forwarded-For": "1.2.3.4",
        "Cookie": "c=d",
    }
    async with fronted(script, token="s") as (url, _, _):
        status, _, headers = await post(url, headers=sent)
    assert status == 200
    assert script.headers["Authorization"] == "Bearer s"
    assert script.headers["Host"] == url.removeprefix("http://")
    assert not {"X-Forwarded-Host", "X-Forwarded-For", "Cookie"} & set(script.headers)
    assert "Set-Cookie" not in headers


async def test_token_origin_and_size_are_checked_before_any_process_is_asked() -> None:
    script = Scripted()
    async with fronted(script, token="s", max_body_bytes=2000) as (url, _, _):
        shown = {"Authorization": "Bearer s"}
        assert (await post(url))[0] == 401
        assert (await post(url, headers={"Authorization": "Bearer t"}))[0] == 401
        forged = {**shown, "Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"}
        assert (await post(url, headers=forged))[1]["error"]["code"] == "wrong_origin"
        status, body, _ = await post(url, headers=shown, json={"sdp": "x" * 3000})
        assert (status, body["error"]["code"]) == (413, "body_too_large")
        async with aiohttp.ClientSession() as http:
            for path in ("/metrics", "/v1/actors", "/v1/sessions/0.x/stats", "/v1/sessions/0.x/speech"):
                async with http.get(f"{url}{path}") as response:
                    assert response.status == 401, path
            async with http.post(f"{url}/v1/actors", headers=shown) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (403, "forbidden")
    assert script.offers == 0
