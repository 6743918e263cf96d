"""A tiny WebRTC peer with a known delay and a known skew, to check the measuring clients against.

A test device: it plays the sound that it gets back after ``delay_s`` and paints the test card's flash
``skew_frames`` pictures late. It speaks the part of the server's protocol that the clients use.
"""

from __future__ import annotations

import asyncio
import fractions
import json
import time
from collections import deque
from dataclasses import dataclass, field

import av
import numpy as np
from aiohttp import web
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

SLICE = 1920
SIDE = 192


@dataclass
class Plan:
    delay_s: float = 0.3
    skew_frames: int = 0
    vanish_after_s: float | None = None
    max_sessions: int = 4
    preparing: int = 0  # offers refused because the actor is being prepared


@dataclass
class Line:
    """One session: sound in, slices out."""

    plan: Plan
    start_s: float | None = None
    incoming: list[np.ndarray] = field(default_factory=list)
    waiting: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    pushed_from_s: float | None = None
    flashes: deque[bool] = field(default_factory=lambda: deque([False] * 64, 64))
    slots: dict[int, np.ndarray] = field(default_factory=dict)
    next_slot: int = 0

    def feed(self, samples: np.ndarray) -> None:
        self.waiting = np.concatenate([self.waiting, samples])

    def slice_at(self, slot: int) -> np.ndarray:
        """Both tracks ask for every slot; the first who asks decides."""
        while self.next_slot <= slot:
            piece, self.waiting = self.waiting[:SLICE], self.waiting[SLICE:]
            samples = np.zeros(SLICE, np.int16)
            samples[: len(piece)] = piece
            self.slots[self.next_slot] = samples
            self.flashes.append(bool(np.abs(samples.astype(np.int32)).max() > 0.7 * 32767))
            self.slots.pop(self.next_slot - 50, None)
            self.next_slot += 1
        return self.slots[slot]


class Out(MediaStreamTrack):
    def __init__(self, kind: str, line: Line) -> None:
        super().__init__()
        self.kind = kind
        self.line = line
        self.count = 0

    async def wait_until(self, seconds: float) -> float:
        if self.line.start_s is None:
            self.line.start_s = time.monotonic()
        await asyncio.sleep(max(0.0, self.line.start_s + seconds - time.monotonic()))
        gone = self.line.plan.vanish_after_s
        if gone is not None and seconds > gone:
            await asyncio.sleep(
                3600
            )  # as a server whose machine was switched off: nothing, not even a goodbye
        return seconds

    async def recv(self):
        if self.kind == "audio":
            await self.wait_until(self.count * 0.02)
            samples = self.line.slice_at(self.count // 2)[(self.count % 2) * 960 :][:960]
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = (
                48_000,
                self.count * 960,
                fractions.Fraction(1, 48_000),
            )
        else:
            await self.wait_until(self.count * 0.04)
            self.line.slice_at(self.count)
            picture = np.full((SIDE, SIDE, 3), 60, np.uint8)
            picture[SIDE // 2 :, self.count % SIDE :: 16] = 200
            if self.line.flashes[-1 - self.line.plan.skew_frames]:
                picture[: SIDE // 2, : SIDE // 2] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = self.count * 3600, fractions.Fraction(1, 90_000)
        self.count += 1
        return frame


class ReferencePeer:
    """An HTTP server on a free loopback port."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.peers: dict[str, RTCPeerConnection] = {}
        self.tasks: list[asyncio.Task] = []
        self.lines: list[Line] = []
        self.refused = 0

    async def __aenter__(self) -> ReferencePeer:
        app = web.Application()
        app.router.add_post("/offer", self.offer)
        app.router.add_delete("/v1/sessions/{id}", self.end)
        app.router.add_get("/healthz", self.health)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_) -> None:
        for task in self.tasks:
            task.cancel()
        for peer in self.peers.values():
            await asyncio.wait_for(peer.close(), 5)
        await self.runner.cleanup()

    async def health(self, _request):
        return web.json_response({"status": "ok", "engine": "reference"})

    async def end(self, request):
        peer = self.peers.pop(request.match_info["id"], None)
        if peer is not None:
            await asyncio.wait_for(peer.close(), 5)
        return web.json_response({})

    async def offer(self, request):
        if len(self.peers) >= self.plan.max_sessions:
            error = {"code": "too_many_sessions", "message": "all places are taken"}
            return web.json_response({"error": error}, status=503, headers={"Retry-After": "5"})
        if self.refused < self.plan.preparing:
            self.refused += 1
            error = {"code": "actor_preparing", "message": f"{self.refused} of {self.plan.preparing}"}
            return web.json_response({"error": error}, status=503, headers={"Retry-After": "1"})
        body = await request.json()
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        line = Line(self.plan)
        self.lines.append(line)
        line.feed(np.zeros(int(self.plan.delay_s * 48_000), np.int16))
        peer.on("track", lambda track: self.tasks.append(asyncio.create_task(self.listen(track, line))))
        peer.on("datachannel", lambda channel: self.speak(channel, line))
        await peer.setRemoteDescription(RTCSessionDescription(body["sdp"], body["type"]))
        for kind in ("audio", "video"):
            peer.addTrack(Out(kind, line))
        await peer.setLocalDescription(await peer.createAnswer())
        session_id = f"s{len(self.lines)}"
        self.peers[session_id] = peer
        return web.json_response(
            {"sdp": peer.localDescription.sdp, "type": "answer", "session_id": session_id}
        )

    async def listen(self, track, line: Line) -> None:
        try:
            while True:
                frame = await track.recv()
                line.feed(frame.to_ndarray().reshape(-1)[:: len(frame.layout.channels)].astype(np.int16))
        except MediaStreamError:
            pass

    def speak(self, channel, line: Line) -> None:
        def on_message(data) -> None:
            if isinstance(data, bytes):
                line.feed(np.frombuffer(data, "<i2"))
            elif json.loads(data)["type"] == "ping":
                channel.send(json.dumps({"type": "pong", "t": json.loads(data)["t"]}))

        channel.on("message", on_message)
