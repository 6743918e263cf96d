"""The speech protocol (docs/protocol.md): the same messages over a WebSocket and an RTC data channel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from aiohttp import WSMsgType, web

from mytalk.audio.resample import check_rate
from mytalk.errors import BadInput, MyTalkError, Overloaded
from mytalk.types import I16

logger = logging.getLogger(__name__)
Message = dict[str, Any]

KNOBS = ("hop", "lookahead", "steps")  # of a session, see docs/protocol.md
MAX_PCM_BYTES = 64 * 1024  # of one binary message: 1.4 s at 24 kHz
MAX_TEXT_BYTES = 4 * 1024
SOCKET_MAX_BYTES = 1024 * 1024  # beyond this the WebSocket itself is closed (1009)
OUTBOX_MESSAGES = 256  # a WebSocket client that leaves more unread is cut off
REPORT_EVERY_S = 0.5  # of taken speech, between two buffer reports


class SpeechSink(Protocol):
    """Where the speech goes: a conversation."""

    def push_speech(self, samples: I16, rate_hz: int) -> None:
        """Take speech; having raised ``Overloaded``, ``BadInput`` or ``SessionClosed`` it took nothing."""
        ...

    def end_of_speech(self) -> None:
        """The utterance is complete."""
        ...

    def interrupt(self) -> None:
        """Stop talking now."""
        ...

    def configure(self, knobs: Mapping[str, int]) -> dict[str, int]:
        """Turn the latency/quality knob (``TalkSession.configure``); returns what holds now."""
        ...

    def queued_s(self) -> float:
        """Seconds of speech taken and not yet played."""
        ...


def error_message(code: str, message: str) -> Message:
    """One error for the client."""
    return {"type": "error", "code": code, "message": message}


class SpeechChannel:
    """One client's side of the protocol, sans I/O: a message in, the replies out; nothing is ever raised."""

    def __init__(self, sink: SpeechSink, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._clock = clock
        self._rate_hz: int | None = None
        self._position = 0  # samples taken since "start"
        self._reported = 0

    def text(self, message: str) -> list[Message]:
        """Take one JSON control message."""
        try:
            return self._control(_parse(message))
        except MyTalkError as error:
            return [self._refusal(error)]

    def binary(self, message: bytes) -> list[Message]:
        """Take one piece of s16le mono PCM of the declared rate."""
        try:
            return self._pcm(message)
        except MyTalkError as error:
            return [self._refusal(error)]

    def _control(self, message: Message) -> list[Message]:
        kind = message.get("type")
        if kind == "start":
            rate = message.get("rate")
            check_rate(rate)  # type: ignore[arg-type]  # it refuses what is not a rate
            assert isinstance(rate, int)
            self._rate_hz, self._position, self._reported = rate, 0, 0
            return [self._report()]
        if kind == "end":
            self._sink.end_of_speech()
            return [self._report()]
        if kind == "interrupt":
            self._sink.interrupt()
            return [self._report()]
        if kind == "configure":
            knobs = {name: value for name, value in message.items() if name != "type"}
            if unknown := sorted(set(knobs) - set(KNOBS)):
                raise BadInput(f"unknown setting {unknown[0]!r}; known are {', '.join(KNOBS)}", "bad_config")
            return [{"type": "configured", **self._sink.configure(knobs)}]
        if kind == "ping":
            return [{"type": "pong", "t": message.get("t"), "server_s": self._clock()}]
        raise BadInput(f"unknown message type {kind!r}", "unknown_type")

    def _pcm(self, message: bytes) -> list[Message]:
        if self._rate_hz is None:
            raise BadInput('send {"type":"start","rate":...} before the speech', "not_started")
        if len(message) > MAX_PCM_BYTES:
            raise BadInput(f"at most {MAX_PCM_BYTES} bytes a message, not {len(message)}", "too_large")
        if len(message) % 2:
            raise BadInput(f"{len(message)} bytes are no whole number of 16-bit samples", "odd_bytes")
        samples = np.frombuffer(message, "<i2").astype(np.int16)
        if len(samples) == 0:
            return []
        self._sink.push_speech(samples, self._rate_hz)
        self._position += len(samples)
        if self._position - self._reported < REPORT_EVERY_S * self._rate_hz:
            return []
        return [self._report()]

    def _report(self) -> Message:
        self._reported = self._position
        return {"type": "buffer", "position": self._position, "queued_s": round(self._sink.queued_s(), 3)}

    def _refusal(self, error: MyTalkError) -> Message:
        """What was refused was not taken; an overloaded client learns where to go on, and when."""
        message = error_message(error.code, str(error))
        if isinstance(error, Overloaded):
            message |= {"position": self._position, "queued_s": round(self._sink.queued_s(), 3)}
            if error.retry_after_s is not None:
                message["retry_after_s"] = math.ceil(error.retry_after_s * 1e3) / 1e3
        return message


def _parse(message: str) -> Message:
    if len(message) > MAX_TEXT_BYTES:
        raise BadInput(f"at most {MAX_TEXT_BYTES} characters a control message", "too_large")
    try:
        value = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON: {error}", "bad_json") from error
    if not isinstance(value, dict):
        raise BadInput("a control message is a JSON object", "bad_json")
    return value


class Outbox:
    """Messages waiting for one WebSocket: bounded; on overflow the socket is given up."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue(OUTBOX_MESSAGES)

    def put(self, message: Message) -> None:
        """Queue a message; a client that does not read loses its socket, not our memory."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.finish()

    def finish(self) -> None:
        """End ``run`` after what was queued; without room to say so, the oldest message goes."""
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def run(self) -> None:
        """Send until ``finish`` or until the socket breaks, then close it."""
        with contextlib.suppress(ConnectionError):
            while (message := await self._queue.get()) is not None:
                await self._socket.send_json(message)
        await self._socket.close()


async def serve_socket(socket: web.WebSocketResponse, channel: SpeechChannel, outbox: Outbox) -> None:
    """Speak the protocol on a prepared WebSocket until either side ends it."""
    sender = asyncio.create_task(outbox.run(), name="speech socket sender")
    try:
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                replies = channel.text(message.data)
            elif message.type == WSMsgType.BINARY:
                replies = channel.binary(message.data)
            else:
                continue
            for reply in replies:
                outbox.put(reply)
            # messages that are already here come without a pause: let the pacing run between two of them
            await asyncio.sleep(0)
    finally:
        outbox.finish()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sender, 2.0)
