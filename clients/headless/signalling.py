"""The few HTTP requests of a call, with one-line errors."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp

from clients.headless.errors import BadArgument, Refused

TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """sdp: the server's session description; session_id: its name of the call."""

    sdp: str
    session_id: str


class Signalling:
    """HTTP side of one server. Use as ``async with``."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise BadArgument(f"--url must start with http:// or https://, not {url!r}")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Signalling:
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S), headers=self._headers
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def offer(self, body: dict[str, Any]) -> Answer:
        """POST /offer; raises ``Refused``."""
        reply = await self._request("POST", "/offer", body)
        try:
            return Answer(str(reply["sdp"]), str(reply["session_id"]))
        except KeyError as error:
            raise Refused(
                f"{self.url}/offer answered without {error}; is it a mytalk server?", "bad_answer"
            ) from error

    async def health(self) -> dict[str, Any]:
        """GET /healthz; raises ``Refused``."""
        return await self._request("GET", "/healthz", None)

    async def end(self, session_id: str) -> None:
        """DELETE the session; a server that is gone or has forgotten it is no error."""
        try:
            await self._request("DELETE", f"/v1/sessions/{session_id}", None)
        except Refused:
            return

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        assert self._http is not None, "use async with"
        try:
            async with self._http.request(method, self.url + path, json=body) as response:
                if response.status == 204:
                    return {}
                reply = await response.json(content_type=None)
                status = response.status
        except TimeoutError as error:
            raise Refused(f"{self.url}{path} did not answer within {TIMEOUT_S:.0f} s", "timeout") from error
        except aiohttp.ClientError as error:
            raise Refused(f"cannot reach {self.url}: {error}") from error
        except ValueError as error:
            raise Refused(
                f"{self.url}{path} did not answer in JSON; is it a mytalk server?", "bad_answer"
            ) from error
        if status >= 400 or not isinstance(reply, dict):
            told = reply.get("error") if isinstance(reply, dict) else None
            told = told if isinstance(told, dict) else {}
            code, message = str(told.get("code", status)), str(told.get("message", f"HTTP {status}"))
            raise Refused(f"the server refused: {message} ({code})", code)
        return reply
