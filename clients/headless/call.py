"""One call to a mytalk server: connects, speaks, watches and listens, and always hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aioice.ice
import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from clients.headless.errors import ConnectionLost, NothingReceived, Refused
from clients.headless.network import BadNetwork
from clients.headless.receive import SenderClock, make_prompt
from clients.headless.recorder import Recorder
from clients.headless.signalling import Answer, Signalling
from clients.headless.testcard import I16, RATE, ClickDetector, FlashDetector

FIRST_FRAME_S = 15.0  # a first picture later than this is an error
STALL_S = 5.0  # no media for this long: the server is gone
PREPARING = "actor_preparing"  # the server's word for an actor that it shows for the first time
PREPARE_S = 600.0  # longest wait for one
ASK_AGAIN_S = 1.0
CLOSE_S = 5.0  # most time that hanging up may take
PUSH_CHUNK_BYTES = 16_384
PUSH_BUFFER_BYTES = 4 * PUSH_CHUNK_BYTES  # stop feeding the channel above this
PUSH_AHEAD_S = 60.0  # the server holds two minutes of unplayed speech
SOUND_LEVEL = 0.02 * 32767  # speech has started
MAX_MESSAGES = 2_000  # server messages kept; about half an hour of one a second


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What to ask for. token: bearer token or None; the others: None = the server's default.

    on_wait: told in one line why the call is not up yet, again and again while the actor is being prepared.
    """

    url: str
    actor: str | None = None
    token: str | None = None
    hop: int | None = None
    lookahead: int | None = None
    steps: int | None = None
    on_wait: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A decoded picture: media time and arrival (monotonic), seconds; flash: a flash starts with it.

    white: it is part of a flash. sent_s: arrival of its first packet, which the server sent as soon as the
    picture was encoded.
    """

    media_s: float
    arrived_s: float
    flash: bool
    white: bool
    sent_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A decoded click: media time of its first sample, and when it would be played (monotonic)."""

    media_s: float
    played_s: float


@dataclass
class Observations:
    """Everything a call has seen; grows with the length of the call (40 bytes a picture)."""

    pictures: list[Seen] = field(default_factory=list)
    clicks: list[Heard] = field(default_factory=list)
    sound_s: float = 0.0  # seconds of sound received
    last_loud_s: float = float("-inf")  # play time of the last sound that was not quiet
    loud_s: list[float] = field(default_factory=list)  # play times of sound that starts after 0.3 s of quiet
    messages: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    size: tuple[int, int] | None = None  # width, height
    offered_s: float = 0.0  # when the offer was posted

    def stats(self) -> list[dict[str, Any]]:
        """The server's ``stats`` messages, oldest first."""
        return [m for _, m in self.messages if m.get("type") == "stats"]


def allow_loopback(url: str) -> None:
    """Let ICE use 127.0.0.1 for a server on this machine when there is no network at all.

    aioice leaves the loopback address out, so a machine without a network would have no candidate.
    """
    if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
        return
    others: Callable[..., list[str]] = aioice.ice.get_host_addresses

    def addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        return others(use_ipv4, use_ipv6) or ["127.0.0.1"]

    aioice.ice.get_host_addresses = addresses


class Call:
    """A WebRTC call. ``async with Call(...)`` connects; leaving it hangs up within ``CLOSE_S``.

    microphone: track to send, or None to only receive (speech is then pushed). recorder: gets every frame.
    """

    def __init__(
        self,
        options: CallOptions,
        microphone: MediaStreamTrack | None = None,
        recorder: Recorder | None = None,
        network: BadNetwork | None = None,
    ) -> None:
        """network: what becomes of the microphone's packets; None: the real one alone."""
        self.options = options
        self.observed = Observations()
        self.clocks: dict[str, SenderClock] = {}
        self.session_id: str | None = None
        self._microphone = microphone
        self._recorder, self._network = recorder, network
        self._signalling = Signalling(options.url, options.token)
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel: RTCDataChannel = self._peer.createDataChannel("speech")
        self._drained = asyncio.Event()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._first_picture = asyncio.Event()
        self._last_media_s = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Call:
        try:
            await self._connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _connect(self) -> None:
        await self._signalling.__aenter__()
        sending = "recvonly" if self._microphone is None else "sendrecv"
        for kind, source in (("audio", self._microphone or "audio"), ("video", "video")):
            direction = sending if kind == "audio" else "recvonly"
            transceiver = self._peer.addTransceiver(source, direction=direction)
            self.clocks[kind] = make_prompt(transceiver.receiver, kind)
            if kind == "audio" and self._network is not None:
                self._network.attach(transceiver.sender)
        self._peer.on("track", self._on_track)
        self._peer.on("connectionstatechange", self._on_state)
        self._channel.on("message", self._on_message)
        self._channel.on("bufferedamountlow", self._drained.set)
        self._channel.bufferedAmountLowThreshold = PUSH_BUFFER_BYTES // 2
        await self._peer.setLocalDescription(await self._peer.createOffer())
        wanted = {name: getattr(self.options, name) for name in ("actor", "hop", "lookahead", "steps")}
        body = {"sdp": self._peer.localDescription.sdp, "type": "offer"}
        answer = await self._offer({**body, **{k: v for k, v in wanted.items() if v is not None}})
        self.session_id = answer.session_id
        await self._peer.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
        self._last_media_s = time.monotonic()
        self._tasks.append(asyncio.create_task(self._watch()))

    async def _offer(self, body: dict[str, Any]) -> Answer:
        """Offer, and again as long as the server is preparing the actor."""
        deadline_s = time.monotonic() + PREPARE_S
        while True:
            self.observed.offered_s = time.monotonic()
            try:
                return await self._signalling.offer(body)
            except Refused as error:
                if error.code != PREPARING or time.monotonic() > deadline_s:
                    raise
                if self.options.on_wait is not None:
                    self.options.on_wait(str(error))
            await asyncio.sleep(ASK_AGAIN_S)

    async def first_picture(self) -> None:
        """Wait for the first picture; raises ``NothingReceived`` or ``ConnectionLost``."""
        waiter: asyncio.Future[Any] = asyncio.ensure_future(self._first_picture.wait())
        try:
            await asyncio.wait(
                {waiter, self._lost}, timeout=FIRST_FRAME_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiter.cancel()
        if not self._first_picture.is_set():
            if self._lost.done():
                raise ConnectionLost(self._lost.result())
            raise NothingReceived(f"no picture within {FIRST_FRAME_S:.0f} s of the offer")

    async def run(self, seconds: float) -> None:
        """Stay in the call for some time; raises ``ConnectionLost`` when the server vanishes."""
        done, _ = await asyncio.wait({self._lost}, timeout=seconds)
        if done:
            raise ConnectionLost(self._lost.result())

    async def push(self, samples: I16, rate: int = RATE) -> float:
        """Send an utterance over the data channel faster than real time; returns its start (monotonic)."""
        await self._until(lambda: self._channel.readyState == "open", 10.0, "the data channel did not open")
        start_s = time.monotonic()
        self.send({"type": "start", "rate": rate})
        data = samples.astype("<i2").tobytes()
        for offset in range(0, len(data), PUSH_CHUNK_BYTES):
            while self._must_wait(offset / 2 / rate, start_s):
                self._drained.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drained.wait(), 0.5)
                if self._lost.done():
                    raise ConnectionLost(self._lost.result())
            self._channel.send(data[offset : offset + PUSH_CHUNK_BYTES])
        self.send({"type": "end"})
        return start_s

    def _must_wait(self, sent_s: float, start_s: float) -> bool:
        ahead_s = sent_s - (time.monotonic() - start_s)
        return self._channel.bufferedAmount > PUSH_BUFFER_BYTES or ahead_s > PUSH_AHEAD_S

    def send(self, message: dict[str, Any]) -> None:
        """Send one control message over the open data channel."""
        self._channel.send(json.dumps(message))

    async def message(self, kind: str, since_s: float, timeout_s: float) -> dict[str, Any]:
        """Wait for a server message of a type that came after ``since_s`` (monotonic)."""

        def found() -> bool:
            return any(at >= since_s and m.get("type") == kind for at, m in self.observed.messages)

        await self._until(found, timeout_s, f"the server sent no {kind!r} message")
        return next(m for at, m in self.observed.messages if at >= since_s and m.get("type") == kind)

    async def close(self) -> None:
        """Hang up; safe to call twice."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._network is not None:
            await self._network.close()
        with contextlib.suppress(TimeoutError, ConnectionError):
            # aiortc's close can hang on a broken transport, so it is bounded
            await asyncio.wait_for(self._peer.close(), CLOSE_S)
        if self.session_id is not None:
            session_id, self.session_id = self.session_id, None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._signalling.end(session_id), CLOSE_S)
        await self._signalling.__aexit__(None, None, None)
        if not self._lost.done():
            self._lost.cancel()

    async def _until(self, ready: Callable[[], bool], timeout_s: float, complaint: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            if self._lost.done():
                raise ConnectionLost(self._lost.result())
            if time.monotonic() > deadline_s:
                raise NothingReceived(f"{complaint} within {timeout_s:.0f} s")
            await asyncio.sleep(0.01)

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    def _on_state(self) -> None:
        if self._peer.connectionState in ("failed", "closed"):
            self._lose(f"the connection to the server {self._peer.connectionState}")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            quiet_s = time.monotonic() - self._last_media_s
            if quiet_s > (STALL_S if self._first_picture.is_set() else FIRST_FRAME_S):
                self._lose(f"nothing came from the server for {quiet_s:.0f} s")

    def _on_message(self, data: str | bytes) -> None:
        with contextlib.suppress(ValueError):
            message = json.loads(data)
            if isinstance(message, dict) and len(self.observed.messages) < MAX_MESSAGES:
                self.observed.messages.append((time.monotonic(), message))
                if message.get("type") == "closed":
                    self._lose("the server ended the call")

    def _on_track(self, track: MediaStreamTrack) -> None:
        consume = self._watch_video if track.kind == "video" else self._watch_audio
        self._tasks.append(asyncio.create_task(consume(track)))

    async def _watch_video(self, track: MediaStreamTrack) -> None:
        flashes = FlashDetector()
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                now = self._last_media_s = time.monotonic()
                plane = frame.planes[0]
                luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[
                    : frame.height, : frame.width
                ]
                media_s = float(frame.pts * frame.time_base)
                sent_s = self.clocks["video"].came_s(media_s) or now
                starts = flashes.feed(luma)
                self.observed.pictures.append(Seen(media_s, now, starts, flashes.white, sent_s))
                self.observed.size = (frame.width, frame.height)
                self._first_picture.set()
                if self._recorder is not None:
                    self._recorder.add(frame, now)
        self._lose("the server ended the picture")

    async def _watch_audio(self, track: MediaStreamTrack) -> None:
        clicks, last_loud_s = ClickDetector(), float("-inf")
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                now = self._last_media_s = time.monotonic()
                samples = mono(frame)
                media_s = float(frame.pts * frame.time_base)
                for offset in clicks.feed(samples):
                    self.observed.clicks.append(Heard(media_s + offset / RATE, now + offset / RATE))
                loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > SOUND_LEVEL)
                if len(loud):
                    if now - last_loud_s > 0.3:
                        self.observed.loud_s.append(now + int(loud[0]) / RATE)
                    last_loud_s = now
                    self.observed.last_loud_s = now + int(loud[-1]) / RATE
                self.observed.sound_s += len(samples) / RATE
                if self._recorder is not None:
                    self._recorder.add(frame, now)
        self._lose("the server ended the sound")


def mono(frame: av.AudioFrame) -> I16:
    """First channel of a decoded interleaved 16-bit frame: int16 [n]."""
    interleaved = frame.to_ndarray().reshape(-1)
    return np.ascontiguousarray(interleaved[:: len(frame.layout.channels)], dtype=np.int16)
