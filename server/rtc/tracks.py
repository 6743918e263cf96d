"""The two outgoing tracks of a session; picture and sound of a slice leave together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from mytalk.clock import PLAYOUT_RATE, PLAYOUT_SAMPLES_PER_FRAME, exact_div
from mytalk.types import I16, U8
from server.rtc.sound_encoder import PACKET_SAMPLES, OpusEncoder
from server.rtc.video_encoder import OutPicture, ReelPart

PACKET_S = PACKET_SAMPLES / PLAYOUT_RATE
PACKETS_PER_SLICE = exact_div(PLAYOUT_SAMPLES_PER_FRAME, PACKET_SAMPLES)  # 2
VIDEO_QUEUE = 2  # pictures waiting for the encoder; older ones are of no use
AUDIO_QUEUE = 50  # packets: one second, so that a short stall of the sender loses no sound

Item = TypeVar("Item")


class DropOldest(Generic[Item]):
    """A bounded queue for one reader; when it is full the oldest item goes. ``close`` ends the reader."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[Item] = deque(maxlen=capacity)
        self._ready = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> bool:
        """Queue an item; False when an older one had to go for it."""
        full = len(self._items) == self._items.maxlen
        self.dropped += full
        self._items.append(item)
        self._ready.set()
        return not full

    def close(self) -> None:
        """Wake the reader, which then gets ``MediaStreamError``."""
        self._closed = True
        self._ready.set()

    async def get(self) -> Item:
        """Oldest item; raises ``MediaStreamError`` once closed."""
        while not self._items and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        if self._closed:
            raise MediaStreamError
        return self._items.popleft()


class VideoOut(MediaStreamTrack):  # type: ignore[misc]
    """Pictures at 25/s; the time stamp is the slot on the playout timeline."""

    kind = "video"

    def __init__(self, clock: Callable[[], float], on_sent: Callable[[float], None]) -> None:
        """on_sent: called with the seconds that encoding and sending of a picture took."""
        super().__init__()
        self._clock = clock
        self._on_sent = on_sent
        self._queue: DropOldest[OutPicture] = DropOldest(VIDEO_QUEUE)
        self._handed_out_s: float | None = None

    def put(self, slot: int, picture: U8, part: ReelPart | None = None) -> bool:
        """Queue a picture for a slot; False when an older one was dropped for it.

        picture: planar, see ``mytalk.video.planar``. part: as it was encoded for everybody, where it was.
        """
        return self._queue.put(OutPicture(picture, slot, part))

    async def recv(self) -> OutPicture:
        """Next picture."""
        if self._handed_out_s is not None:
            self._on_sent(self._clock() - self._handed_out_s)
            self._handed_out_s = None
        frame = await self._queue.get()
        self._handed_out_s = self._clock()
        return frame

    def stop(self) -> None:
        """End the track; idempotent."""
        self._queue.close()
        super().stop()


class AudioOut(MediaStreamTrack):  # type: ignore[misc]
    """Sound in 20 ms packets; the second half of a slice leaves 20 ms after the first.

    RTCP tells the receiver which sample was sent when, and it plays both tracks by that. Sent in one burst,
    the second half would claim that all sound is 20 ms earlier than it is.
    """

    kind = "audio"

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._encoder: OpusEncoder | None = OpusEncoder()
        self._queue: DropOldest[tuple[int, I16, float]] = DropOldest(AUDIO_QUEUE)

    def put(self, slot: int, samples: I16, leave_s: float) -> bool:
        """Queue int16 [1920] for a slot that leaves at ``leave_s``; False: older sound was dropped for it."""
        kept = True
        for part in range(PACKETS_PER_SLICE):
            first = part * PACKET_SAMPLES
            packet = samples[first : first + PACKET_SAMPLES]
            pts = slot * PLAYOUT_SAMPLES_PER_FRAME + first
            kept = self._queue.put((pts, packet, leave_s + part * PACKET_S)) and kept
        return kept

    async def recv(self) -> av.Packet:
        """Next 20 ms packet of Opus, when it is time for it."""
        pts, samples, leave_s = await self._queue.get()
        if self._encoder is None:
            raise MediaStreamError
        packet = self._encoder.encode(samples, pts)
        wait_s = leave_s - self._clock()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        return packet

    def stop(self) -> None:
        """End the track; idempotent."""
        self._queue.close()
        self._encoder = None  # it holds threads, and whoever ended the call may keep the track for a while
        super().stop()
