"""A viewer that costs next to nothing: real WebRTC, but what arrives is counted, not decoded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.mediastreams import MediaStreamError

from clients.headless.errors import ClientError, ConnectionLost, NothingReceived
from clients.headless.receive import PromptJitterBuffer
from clients.headless.signalling import Signalling
from clients.headless.sources import Microphone
from clients.headless.testcard import I16

SPEECH_RATE_HZ, PLAYED_RATE_HZ = 16_000, 48_000
CHUNK_BYTES = 32_000  # one second
CONNECT_S = 20.0
CLOSE_S = 5.0
TICKS_PER_PICTURE = 3_600  # of the RTP clock


def babble(seconds: float, seed: int) -> I16:
    """Speech-like sound, int16 [n] at 16 kHz: a buzz in four to five syllables a second."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * SPEECH_RATE_HZ)) / SPEECH_RATE_HZ
    pitch_hz = random.uniform(90, 220)
    buzz = 0.5 * np.sign(np.sin(2 * np.pi * pitch_hz * t)) + 0.1 * random.standard_normal(len(t))
    loud = 0.5 * (1 - np.cos(2 * np.pi * random.uniform(4, 5) * t))
    samples: I16 = (buzz * loud * 0.3 * 32767).clip(-32768, 32767).astype(np.int16)
    return samples


@dataclass
class Arrivals:
    """pictures: RTP time and arrival (monotonic seconds) of each. packets, size_bytes: of all media."""

    pictures: list[tuple[int, float]] = field(default_factory=list)
    packets: int = 0
    size_bytes: int = 0

    def since(self, begin_s: float) -> list[int]:
        """RTP times of the pictures that came after ``begin_s``, in the order of arrival."""
        return [stamp for stamp, at in self.pictures if at >= begin_s]


class CountingBuffer(JitterBuffer):  # type: ignore[misc]
    """Takes packets in place of aiortc's buffer and hands nothing to the decoder."""

    def __init__(self, arrivals: Arrivals, is_video: bool) -> None:
        super().__init__(capacity=512 if is_video else 16, is_video=is_video)
        self._arrivals, self._video = arrivals, is_video

    def add(self, packet: Any) -> tuple[bool, JitterFrame | None]:
        """Count one packet; a picture has arrived with its last one."""
        self._arrivals.packets += 1
        self._arrivals.size_bytes += len(packet.payload)
        if self._video and packet.marker:
            self._arrivals.pictures.append((packet.timestamp, time.monotonic()))
        return False, None


class WatchingBuffer(PromptJitterBuffer):
    """Counts, and hands complete pictures on to be decoded."""

    def __init__(self, arrivals: Arrivals, is_video: bool) -> None:
        super().__init__(is_video)
        self._counting = CountingBuffer(arrivals, is_video)

    def add(self, packet: Any) -> tuple[bool, JitterFrame | None]:
        """Count one packet and store it."""
        self._counting.add(packet)
        return super().add(packet)


class Speaker(Microphone):
    """A microphone that somebody speaks into now and then."""

    def say(self, samples: I16) -> None:
        """Say int16 [n], 48 kHz mono, from now on."""
        self._samples = np.concatenate([np.zeros(self._position, np.int16), samples])


class Viewer:
    """One session: ``async with Viewer(...)`` connects, leaving it hangs up.

    decode: look at the pictures. live: speak through a microphone; otherwise speech is pushed.
    """

    def __init__(self, url: str, actor: str | None, *, decode: bool, live: bool = False) -> None:
        self.arrivals = Arrivals()
        self.decoded = 0
        self.size: tuple[int, int] | None = None
        self.session_id = ""
        self._url, self._actor, self._decode = url, actor, decode
        self._signalling = Signalling(url, None)
        self._http = aiohttp.ClientSession()
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._microphone = Speaker(np.zeros(0, np.int16)) if live else None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Viewer:
        """Connect and wait for the first picture; raises ``ClientError``."""
        try:
            await self._signalling.__aenter__()
            await self._connect()
            await self.until(lambda: bool(self.arrivals.pictures), CONNECT_S, "no picture")
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up."""
        await self.close()

    async def _connect(self) -> None:
        self._peer.on("track", self._on_track)
        for kind in ("audio", "video"):
            if kind == "audio" and self._microphone is not None:
                receiver = self._peer.addTransceiver(self._microphone, direction="sendrecv").receiver
            else:
                receiver = self._peer.addTransceiver(kind, direction="recvonly").receiver
            make = WatchingBuffer if self._decode and kind == "video" else CountingBuffer
            buffer = make(self.arrivals, kind == "video")
            setattr(receiver, "_RTCRtpReceiver__jitter_buffer", buffer)  # noqa: B010 - private to aiortc
        await self._peer.setLocalDescription(await self._peer.createOffer())
        body: dict[str, Any] = {"sdp": self._peer.localDescription.sdp, "type": "offer"}
        answer = await self._signalling.offer(body | ({"actor": self._actor} if self._actor else {}))
        self.session_id = answer.session_id
        await self._peer.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))

    def _on_track(self, track: MediaStreamTrack) -> None:
        if self._decode and track.kind == "video":
            self._tasks.append(asyncio.create_task(self._look(track)))

    async def _look(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                self.decoded += 1
                self.size = (frame.width, frame.height)

    async def until(self, ready: Callable[[], bool], timeout_s: float, complaint: str) -> None:
        """Wait for something; raises ``ConnectionLost`` or ``NothingReceived``."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            if self._peer.connectionState in ("failed", "closed"):
                raise ConnectionLost(f"the connection {self._peer.connectionState}")
            if time.monotonic() > deadline_s:
                raise NothingReceived(f"{complaint} within {timeout_s:.0f} s")
            await asyncio.sleep(0.05)

    async def say(self, samples: I16) -> None:
        """Say int16 [n], 16 kHz mono: pushed over the speech WebSocket all at once (at most what the server
        buffers), or spoken into the microphone.
        """
        if self._microphone is not None:
            self._microphone.say(np.repeat(samples, PLAYED_RATE_HZ // SPEECH_RATE_HZ))
            return
        data = samples.astype("<i2").tobytes()
        async with self._http.ws_connect(f"{self._url}/v1/sessions/{self.session_id}/speech") as socket:
            await socket.send_json({"type": "start", "rate": SPEECH_RATE_HZ})
            for offset in range(0, len(data), CHUNK_BYTES):
                await socket.send_bytes(data[offset : offset + CHUNK_BYTES])
            await socket.send_json({"type": "end"})
            async for message in socket:  # the last report: everything was taken
                told = message.json()
                if told["type"] == "error":
                    raise ClientError(f"the server refused speech: {told['message']}")
                if told["type"] == "buffer" and told["position"] >= len(samples):
                    return

    async def stats(self) -> dict[str, Any]:
        """The server's figures of this session."""
        async with self._http.get(f"{self._url}/v1/sessions/{self.session_id}/stats") as response:
            found: dict[str, Any] = await response.json()
            return found

    async def close(self) -> None:
        """Hang up; safe to call twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._microphone is not None:
            self._microphone.stop()
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(self._peer.close(), CLOSE_S)
        if self.session_id:
            session_id, self.session_id = self.session_id, ""
            await self._signalling.end(session_id)
        await self._signalling.__aexit__(None, None, None)
        await self._http.close()


def missing_pictures(stamps: list[int]) -> int:
    """Pictures that are absent between the first and the last of a list of RTP times (they wrap at 2^32)."""
    if len(stamps) < 2:
        return 0
    span = (stamps[-1] - stamps[0]) & 0xFFFFFFFF
    return max(0, round(span / TICKS_PER_PICTURE) + 1 - len(stamps))
