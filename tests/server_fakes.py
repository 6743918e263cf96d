"""For the server's tests: a cast without models, a server in this process, and an aiortc client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from mytalk.actors.actor import read_card
from mytalk.errors import EngineFailed
from mytalk.types import I16, U8, Job, JobResult, MotionState, PictureJob, PictureResult
from mytalk.video.planar import planar
from server.__main__ import Server
from server.config import ServerConfig
from server.rtc import setup as rtc_setup
from tests.fakes import FAKE_SPEC, FakeEngine, fake_actor

SIDE = 96  # pixels; small pictures keep the tests quick


class FakeRenderer:
    """Grey pictures, brighter while the mouth is open; idle pictures are black."""

    def __init__(self, engine: FakeEngine, job_s: float = 0.0) -> None:
        self.engine = engine
        self.view = fake_actor()
        self.job_s = job_s
        self.broken = False
        self.idle_left = 3
        self.to_prepare = 1
        self.prepared = 0
        self.prepare_s = 0.0
        self.kept = 0
        self.memory_bytes = 1000

    @property
    def progress(self) -> tuple[int, int]:
        return self.prepared, self.to_prepare

    def prepare_next(self, frames: int) -> bool:
        for _ in range(min(frames, self.to_prepare - self.prepared)):
            time.sleep(self.prepare_s)
            self.prepared += 1
        return self.prepared < self.to_prepare

    def keep(self) -> None:
        self.kept += 1

    @property
    def frame_size(self) -> tuple[int, int]:
        return SIDE, SIDE

    def initial_state(self) -> MotionState:
        return self.engine.initial_state()

    def execute(self, job: Job) -> JobResult:
        if self.broken:
            raise EngineFailed("the fake engine is broken")
        time.sleep(self.job_s)
        if not isinstance(job, PictureJob):
            return replace(self.engine.motion([job])[0], stages_s={"motion": self.job_s})
        pictures = []
        for spec in job.frames:
            openness = 0.0 if spec.displacement is None else float(np.abs(spec.displacement).max())
            pictures.append(planar(np.full((SIDE, SIDE, 3), 60 + int(min(openness, 0.3) * 500), np.uint8)))
        return PictureResult(tuple(pictures), {"decode": self.job_s})

    def idle_picture(self, clip_index: int) -> U8:
        return planar(np.zeros((SIDE, SIDE, 3), np.uint8))

    def render_next_idle(self) -> bool:
        self.idle_left -= 1
        return self.idle_left > 0


class FakeCast:
    """Two actors without files."""

    def __init__(self, read_s: float = 0.0, job_s: float = 0.0) -> None:
        self.engine_name = "fake"
        self.batch = 1
        self.spec = FAKE_SPEC
        self.engine = FakeEngine()
        self.read_s = read_s
        self.job_s = job_s
        self.reads: list[str] = []
        self.renderers: dict[str, FakeRenderer] = {}
        self.own: dict[str, Path] = {}
        self.forgotten: list[str] = []

    def execute_together(self, tasks: Any, spread: Any) -> list[JobResult]:
        return [renderer.execute(job) for renderer, job in tasks]

    def actors(self) -> list[tuple[str, str]]:
        return [("ada", "Ada"), ("bob", "Bob"), *((name, name.title()) for name in self.own)]

    def poster(self, name: str) -> bytes:
        return b"picture of " + name.encode()

    def is_own(self, name: str) -> bool:
        return name in self.own

    def memory_bytes(self, name: str) -> int:
        return 1000

    def read(self, name: str) -> FakeRenderer:
        time.sleep(self.read_s)
        self.reads.append(name)
        self.renderers[name] = FakeRenderer(self.engine, self.job_s)
        return self.renderers[name]

    def add(self, folder: Path) -> None:
        self.own[read_card(folder).name] = folder

    def remove(self, name: str) -> Path:
        return self.own.pop(name)

    def forget(self, folder: Path) -> None:
        self.forgotten.append(read_card(folder).name)


def load_fake(_config: ServerConfig) -> FakeCast:
    """Where several processes get their cast from: found by its name."""
    return FakeCast()


@contextlib.asynccontextmanager
async def running(cast: FakeCast | None = None, **settings: Any) -> AsyncIterator[str]:
    """A server on a free loopback port; yields its URL."""
    config = ServerConfig(**{"video_encoder": "libx264", **settings})
    rtc_setup.set_up(
        video_bits_per_s=config.video_bits_per_s,
        loopback=True,
        vanish_after_s=config.vanish_after_s,
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(config, cast or FakeCast())
        try:
            await server.startup(listener, None)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            await server.shutdown()


@dataclass
class Client:
    """A caller: receives both tracks and speaks over the data channel."""

    http: aiohttp.ClientSession
    url: str
    microphone: Any = None
    pc: RTCPeerConnection = field(default_factory=lambda: RTCPeerConnection(RTCConfiguration(iceServers=[])))
    pictures: list[tuple[float, float, float]] = field(default_factory=list)  # arrival s, media s, brightness
    sounds: list[tuple[float, float, int]] = field(default_factory=list)  # arrival s, media s, peak
    messages: list[dict[str, Any]] = field(default_factory=list)
    session_id: str = ""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def connect(self, **fields: Any) -> None:
        self.channel = self.pc.createDataChannel("speech")
        self.channel.on("open", self.opened.set)
        self.channel.on("message", lambda text: self.messages.append(json.loads(text)))
        if self.microphone is None:
            self.pc.addTransceiver("audio", direction="recvonly")
        else:
            self.pc.addTransceiver(self.microphone, direction="sendrecv")
        self.pc.addTransceiver("video", direction="recvonly")
        self.pc.on("track", lambda track: self.tasks.append(asyncio.create_task(self.receive(track))))
        await self.pc.setLocalDescription(await self.pc.createOffer())
        body = {"sdp": self.pc.localDescription.sdp, "type": "offer", **fields}
        async with self.http.post(f"{self.url}/offer", json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
        self.session_id = answer["session_id"]
        await self.pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        await asyncio.wait_for(self.opened.wait(), 10)

    async def receive(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                media_s = float(frame.pts * frame.time_base)
                if isinstance(frame, av.VideoFrame):
                    picture = frame.to_ndarray(format="gray")
                    self.pictures.append((time.monotonic(), media_s, float(picture.mean())))
                else:
                    peak = int(np.abs(frame.to_ndarray().astype(np.int32)).max())
                    self.sounds.append((time.monotonic(), media_s, peak))

    def say(self, message: dict[str, Any]) -> None:
        self.channel.send(json.dumps(message))

    def push(self, samples: I16, rate: int = 24_000) -> None:
        self.say({"type": "start", "rate": rate})
        data = samples.astype("<i2").tobytes()
        for at in range(0, len(data), 16_000):
            self.channel.send(data[at : at + 16_000])
        self.say({"type": "end"})

    async def until(self, condition: Callable[[], Any], deadline_s: float = 10.0) -> None:
        async with asyncio.timeout(deadline_s):
            while not condition():
                await asyncio.sleep(0.01)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.wait_for(self.pc.close(), 5)


@contextlib.asynccontextmanager
async def calling(url: str, microphone: Any = None, **fields: Any) -> AsyncIterator[Client]:
    """A connected client."""
    async with aiohttp.ClientSession() as http:
        client = Client(http, url, microphone)
        try:
            await client.connect(**fields)
            yield client
        finally:
            await client.close()
