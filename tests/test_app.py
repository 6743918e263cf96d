"""HTTP: routes, admission, the token, and a JSON error with a code for everything that goes wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from mytalk.errors import EngineFailed
from tests.fakes import FAKE_SPEC, voice
from tests.server_fakes import FakeCast, calling, running
from tests.test_peer import an_offer


async def ask(url: str, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
    async with aiohttp.ClientSession() as http, http.request(method, url + path, **options) as response:
        text = await response.text()
        is_json = response.content_type == "application/json"
        return response.status, json.loads(text) if is_json else text, response.headers


async def offer_body(**fields: Any) -> dict[str, Any]:
    return {"sdp": await an_offer(), "type": "offer", **fields}


async def test_the_page_and_its_files_are_served() -> None:
    async with running() as url:
        status, page, _ = await ask(url, "GET", "/")
        assert status == 200
        assert "<html" in page.lower()
        assert (await ask(url, "GET", "/static/app.js"))[0] == 200
        status, error, _ = await ask(url, "GET", "/static/../config.py")
        assert (status, error["error"]["code"]) == (404, "not_found")


async def test_health_and_actors() -> None:
    async with running(max_sessions=3, actor="bob") as url:
        status, health, _ = await ask(url, "GET", "/healthz")
        assert status == 200
        assert health.pop("version")
        assert set(health.pop("preparing")) <= {"ada", "bob"}
        assert health == {
            "status": "ok",
            "sessions": 0,
            "max_sessions": 3,
            "engine": "fake",
            "actors": ["ada", "bob"],
        }
        _, actors, _ = await ask(url, "GET", "/v1/actors")
        assert actors["default"] == "bob"
        first = actors["actors"][0]
        assert first == {"name": "ada", "title": "Ada", "poster": "v1/actors/ada/poster", "own": False}
        status, poster, headers = await ask(url, "GET", "/" + first["poster"])
        assert (status, poster, headers["Content-Type"]) == (200, "picture of ada", "image/jpeg")
        status, error, _ = await ask(url, "GET", "/v1/actors/nobody/poster")
        assert (status, error["error"]["code"]) == (404, "unknown_actor")


async def test_a_session_from_offer_to_end() -> None:
    async with running() as url:
        status, answer, _ = await ask(
            url, "POST", "/offer", json=await offer_body(actor="bob", hop=1, lookahead=3)
        )
        assert status == 200
        assert (answer["type"], answer["actor"]) == ("answer", "bob")
        rtpmaps = [line for line in answer["sdp"].splitlines() if line.startswith("a=rtpmap")]
        assert "opus" in rtpmaps[0]
        assert next(line for line in rtpmaps if "/90000" in line).endswith("H264/90000")
        assert any("H264" in line for line in rtpmaps)
        path = f"/v1/sessions/{answer['session_id']}"
        status, stats, _ = await ask(url, "GET", f"{path}/stats")
        assert (status, stats["late_frames"], stats["session_id"]) == (200, 0, answer["session_id"])
        status, text, _ = await ask(url, "GET", "/metrics")
        assert "mytalk_sessions 1.0" in text
        assert (await ask(url, "DELETE", path))[0] == 200
        status, error, _ = await ask(url, "DELETE", path)
        assert (status, error["error"]["code"]) == (404, "unknown_session")
        assert (await ask(url, "GET", f"{path}/stats"))[0] == 404
        assert (await ask(url, "GET", f"{path}/speech"))[0] == 404


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"type": "answer"}, 400, "bad_offer"),
        ({"sdp": 5}, 400, "bad_offer"),
        ({"sdp": None}, 400, "bad_offer"),
        ({"actor": 5}, 400, "bad_offer"),
        ({"hop": "2"}, 400, "bad_offer"),
        ({"hop": True}, 400, "bad_offer"),
        ({"stranger": 1}, 400, "bad_offer"),
        ({"hop": 0}, 400, "bad_config"),
        ({"hop": 200}, 400, "bad_config"),
        ({"lookahead": -1}, 400, "bad_config"),
        ({"actor": "nobody"}, 404, "unknown_actor"),
        ({"sdp": ""}, 400, "bad_sdp"),
        ({"sdp": "nonsense"}, 400, "bad_sdp"),
        ({"sdp": "v=0\r\n" * 2000}, 400, "bad_sdp"),
    ],
)
async def test_a_bad_offer_gets_a_code_and_takes_no_place(
    change: dict[str, Any], status: int, code: str
) -> None:
    async with running(max_sessions=1) as url:
        got, error, _ = await ask(url, "POST", "/offer", json={**await offer_body(), **change})
        assert (got, error["error"]["code"]) == (status, code)
        assert error["error"]["message"]
        assert (await ask(url, "GET", "/healthz"))[1]["sessions"] == 0
        assert (await ask(url, "POST", "/offer", json=await offer_body()))[0] == 200


@pytest.mark.parametrize(
    "edit",
    [
        lambda sdp: sdp.replace("m=video", "m=text"),
        lambda sdp: sdp.replace("m=audio", "m=video"),
        lambda sdp: sdp.replace("a=recvonly", "a=inactive"),
        lambda sdp: sdp.replace("a=ice-ufrag", "a=ice-frag"),
        lambda sdp: sdp.replace("a=fingerprint", "a=finger"),
        lambda sdp: sdp.replace("opus", "sopu"),
        lambda sdp: sdp.replace("VP8", "VPX").replace("H264", "H2645"),
        lambda sdp: sdp[: len(sdp) // 2],
        lambda sdp: sdp.replace("a=mid:0", "a=mid:7"),
        lambda sdp: sdp + sdp[sdp.index("m=") :],
        lambda sdp: sdp.replace("UDP/TLS/RTP/SAVPF", "X"),
    ],
)
async def test_a_mangled_sdp_is_refused_or_answered_but_breaks_nothing(edit: Any) -> None:
    async with running(max_sessions=1, connect_deadline_s=0.2) as url:
        body = await offer_body()
        body["sdp"] = edit(body["sdp"])
        status, answer, _ = await ask(url, "POST", "/offer", json=body)
        assert status in (200, 400)
        if status == 400:
            assert answer["error"]["code"] == "bad_sdp"
        await asyncio.sleep(0.4)
        assert (await ask(url, "POST", "/offer", json=await offer_body()))[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 50_000])
async def test_a_body_that_is_no_json_object(body: bytes) -> None:
    async with running() as url:
        status, error, _ = await ask(url, "POST", "/offer", data=body)
        assert (status, error["error"]["code"]) == (400, "bad_json")


async def test_an_oversized_body_is_refused() -> None:
    async with running() as url:
        status, error, _ = await ask(url, "POST", "/offer", data=b"x" * (256 * 1024 + 1))
        assert (status, error["error"]["code"]) == (413, "body_too_large")


async def test_unknown_paths_and_methods() -> None:
    async with running() as url:
        for method, path, status, code in (
            ("GET", "/nowhere", 404, "not_found"),
            ("GET", "/offer", 405, "method_not_allowed"),
            ("PUT", "/v1/sessions/x", 405, "method_not_allowed"),
            ("GET", "/v1/sessions/x/stats", 404, "unknown_session"),
        ):
            got, error, _ = await ask(url, method, path)
            assert (got, error["error"]["code"]) == (status, code)


async def test_the_token_guards_all_but_health_and_the_pages_files() -> None:
    async with running(token="sesame") as url:
        body = await offer_body()
        for path in ("/", "/v1/actors", "/metrics", "/v1/sessions/x/stats"):
            status, error, headers = await ask(url, "GET", path)
            assert (status, error["error"]["code"], headers["WWW-Authenticate"]) == (
                401,
                "wrong_token",
                "Bearer",
            )
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer sesam\u00e9"},
            {"Authorization": "Basic sesame"},
        ):
            assert (await ask(url, "POST", "/offer", json=body, headers=headers))[0] == 401
        assert (await ask(url, "GET", "/healthz"))[0] == 200
        assert (await ask(url, "GET", "/static/app.js"))[0] == 200
        assert (await ask(url, "GET", "/?token=sesame"))[0] == 200
        right = {"Authorization": "Bearer sesame"}
        status, answer, _ = await ask(url, "POST", "/offer", json=body, headers=right)
        assert status == 200
        speech = f"{url}/v1/sessions/{answer['session_id']}/speech"
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect(speech)
            async with http.ws_connect(f"{speech}?token=sesame") as socket:
                await socket.send_json({"type": "ping", "t": 1})
                assert (await socket.receive_json())["type"] == "pong"


async def test_places_are_counted_while_sessions_are_built() -> None:
    cast = FakeCast(read_s=0.3)
    async with running(cast, max_sessions=2, loaded_actors=1) as url:
        bodies = [await offer_body(actor="bob") for _ in range(5)]
        replies = await asyncio.gather(*(ask(url, "POST", "/offer", json=body) for body in bodies))
        assert sorted(status for status, _, _ in replies) == [200, 200, 503, 503, 503]
        for status, answer, headers in replies:
            if status == 503:
                assert answer["error"]["code"] == "too_many_sessions"
                assert int(headers["Retry-After"]) > 0
        assert cast.reads == ["ada", "bob"]  # the default at the start, the other once for both
        session_id = next(answer["session_id"] for status, answer, _ in replies if status == 200)
        assert (await ask(url, "DELETE", f"/v1/sessions/{session_id}"))[0] == 200
        assert (await ask(url, "POST", "/offer", json=bodies[0]))[0] == 200


async def test_an_actor_that_is_not_ready_yet_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.sessions.ACTOR_PATIENCE_S", 0.3)

    class Slow(FakeCast):
        def read(self, name: str) -> Any:
            renderer = super().read(name)
            if name == "bob":
                renderer.to_prepare, renderer.prepare_s = 80, 0.02
            return renderer

    async with running(Slow(), max_sessions=1, loaded_actors=1) as url:
        status, answer, headers = await ask(url, "POST", "/offer", json=await offer_body(actor="bob"))
        assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "actor_preparing", "1")
        assert 0 < answer["error"]["done"] < answer["error"]["total"] == 80
        assert (await ask(url, "GET", "/healthz"))[1]["sessions"] == 0, "its place is free meanwhile"
        async with asyncio.timeout(10):
            while (await ask(url, "POST", "/offer", json=await offer_body(actor="bob")))[0] != 200:
                await asyncio.sleep(0.1)


async def test_an_actor_that_cannot_be_loaded_costs_only_its_own_offer() -> None:
    class Broken(FakeCast):
        def read(self, name: str) -> Any:
            if name == "bob":
                raise EngineFailed("bob's weights are broken")
            return super().read(name)

    async with running(Broken(), max_sessions=1, loaded_actors=1) as url:
        status, error, _ = await ask(url, "POST", "/offer", json=await offer_body(actor="bob"))
        assert (status, error["error"]["code"]) == (500, "engine_failed")
        assert (await ask(url, "POST", "/offer", json=await offer_body(actor="ada")))[0] == 200


async def test_speech_over_the_websocket() -> None:
    async with running() as url, calling(url) as client:
        speech = f"{url}/v1/sessions/{client.session_id}/speech"
        async with client.http.ws_connect(speech) as socket:
            await socket.send_json({"type": "start", "rate": 16_000})
            await socket.send_bytes(b"\1")
            data = voice(1.0, 16_000).tobytes()
            for at in range(0, len(data), 8000):
                await socket.send_bytes(data[at : at + 8000])
            await socket.send_json({"type": "end"})
            got: list[dict[str, Any]] = []
            async with asyncio.timeout(10):
                while not got or got[-1]["type"] != "speech_ended":
                    got.append(await socket.receive_json())
            assert got[-1]["played_samples"] == 48_000
            assert [message["code"] for message in got if message["type"] == "error"] == ["odd_bytes"]
            assert sum(1 for message in got if message["type"] == "speech_started") == 1
            assert [message["position"] for message in got if message["type"] == "buffer"][-1] == 16_000
        # events go to every channel of the session
        await client.until(lambda: client.told("speech_ended"))
        # the sound comes after its event: it waits in the receive buffer
        await client.until(lambda: sum(peak > 2000 for _, _, peak in client.sounds) > 20)


async def test_the_knob_turns_over_the_websocket_and_what_cannot_be_changes_nothing() -> None:
    async with running() as url, calling(url, hop=1, lookahead=3) as client:
        path = f"{url}/v1/sessions/{client.session_id}"

        async def knobs() -> Any:
            return (await ask(path, "GET", "/stats"))[1]["knobs"]

        async with client.http.ws_connect(f"{path}/speech") as socket, asyncio.timeout(10):

            async def reply_to(**message: Any) -> Any:
                await socket.send_json(message)
                while (got := await socket.receive_json())["type"] not in ("configured", "error"):
                    pass
                return got

            before = await knobs()
            assert (before["hop"], before["lookahead"]) == (1, 3)
            other = max(count for count in FAKE_SPEC.step_counts if count != before["steps"])
            wanted = {"hop": 4, "lookahead": 2, "steps": other}
            assert await reply_to(type="configure", **wanted) == {"type": "configured", **wanted}
            assert await knobs() == wanted
            wrong = (
                {"hop": 10_000},
                {"lookahead": -1},
                {"steps": 99},
                {"hop": "2"},
                {"hop": True},
                {"speed": 1},
            )
            for bad in wrong:
                got = await reply_to(type="configure", **{"lookahead": 1, **bad})
                assert (got["type"], got["code"]) == ("error", "bad_config"), bad
                assert await knobs() == wanted
            assert (await reply_to(type="configure", lookahead=1))["lookahead"] == 1
            assert await knobs() == wanted | {"lookahead": 1}
    async with running() as url:
        status, error, _ = await ask(url, "POST", "/offer", json=await offer_body(steps=99))
        assert (status, error["error"]["code"]) == (400, "bad_config")


async def test_a_full_session_refuses_and_takes_the_rest_later() -> None:
    async with running() as url, calling(url) as client:
        speech = client.http.ws_connect(f"{url}/v1/sessions/{client.session_id}/speech")
        async with speech as socket:
            await socket.send_json({"type": "start", "rate": 8_000})
            for _ in range(40):  # 160 s, the session holds 120
                await socket.send_bytes(bytes(64_000))
            await socket.send_json({"type": "ping", "t": 0})
            got: list[dict[str, Any]] = []
            async with asyncio.timeout(20):
                while not got or got[-1]["type"] != "pong":
                    got.append(await socket.receive_json())
            refused = [message for message in got if message["type"] == "error"]
            assert {message["code"] for message in refused} == {"overloaded"}
            assert refused[0]["position"] % 32_000 == 0
            assert 112 < refused[0]["queued_s"] <= 120
            await socket.send_json({"type": "interrupt"})
            await socket.send_bytes(bytes(64_000))
            await socket.send_json({"type": "ping", "t": 1})
            async with asyncio.timeout(10):
                while got[-1].get("t") != 1:
                    got.append(await socket.receive_json())
            assert len([message for message in got if message["type"] == "error"]) == len(refused)


async def test_deleting_a_session_ends_its_websocket_and_its_call() -> None:
    async with running() as url, calling(url) as client:
        async with client.http.ws_connect(f"{url}/v1/sessions/{client.session_id}/speech") as socket:
            await ask(url, "DELETE", f"/v1/sessions/{client.session_id}")
            async with asyncio.timeout(5):
                kinds = [json.loads(message.data)["type"] async for message in socket]
            assert kinds[-1] == "closed"
        await client.until(lambda: client.pc.connectionState == "closed")


async def test_pages_of_other_sites_need_to_be_named() -> None:
    body = await offer_body()
    async with running(allow_origin=("https://friend.example",), token="sesame", max_sessions=3) as url:
        right = {"Authorization": "Bearer sesame"}
        for origin, expected in (
            ("https://evil.example", 403),
            ("null", 403),
            (url, 200),
            ("https://friend.example", 200),
        ):
            headers = {"Origin": origin, **right}
            status, answer, told = await ask(url, "POST", "/offer", json=body, headers=headers)
            assert status == expected
            readable = told.get("Access-Control-Allow-Origin")
            assert readable == ("https://friend.example" if "friend" in origin else None)
            if status == 403:
                assert answer["error"]["code"] == "wrong_origin"
        path = f"/v1/sessions/{answer['session_id']}"
        evil = {"Origin": "https://evil.example", **right}
        assert (await ask(url, "DELETE", path, headers=evil))[0] == 403
        async with aiohttp.ClientSession(headers=evil) as http:
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await http.ws_connect(f"{url}{path}/speech")
            assert error.value.status == 403
        friend = {"Origin": "https://friend.example"}
        status, _, told = await ask(url, "OPTIONS", "/offer", headers=friend)  # a browser asks without token
        assert status == 204
        assert "Authorization" in told["Access-Control-Allow-Headers"]
        assert (await ask(url, "OPTIONS", "/offer", headers=evil))[0] == 403
