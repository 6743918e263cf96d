"""Outgoing tracks: time stamps from the slot, bounded queues, sound paced by 20 ms."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from server.rtc.tracks import AUDIO_QUEUE, VIDEO_QUEUE, AudioOut, DropOldest, VideoOut


async def test_drop_oldest_keeps_the_newest_and_counts() -> None:
    queue: DropOldest[int] = DropOldest(2)
    assert [queue.put(n) for n in range(4)] == [True, True, False, False]
    assert (queue.dropped, len(queue)) == (2, 2)
    assert [await queue.get(), await queue.get()] == [2, 3]


async def test_a_closed_queue_ends_its_waiting_reader() -> None:
    queue: DropOldest[int] = DropOldest(2)
    reader = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.close()
    with pytest.raises(MediaStreamError):
        await reader


async def test_picture_and_sound_of_a_slot_carry_the_same_time() -> None:
    video, audio = VideoOut(time.monotonic, lambda _: None), AudioOut(time.monotonic)
    samples = np.arange(1920, dtype=np.int16)
    video.put(7, np.zeros((16, 32, 3), np.uint8))
    audio.put(7, samples, time.monotonic())
    picture = await video.recv()
    first, second = await audio.recv(), await audio.recv()
    assert float(picture.pts * picture.time_base) == float(first.pts * first.time_base) == 7 * 0.04
    assert second.pts - first.pts == 960
    assert picture.picture.shape == (16, 32, 3)


async def test_the_second_half_of_a_slice_leaves_20_ms_later() -> None:
    audio = AudioOut(time.monotonic)
    start = time.monotonic()
    audio.put(0, np.zeros(1920, np.int16), start + 0.03)
    await audio.recv()
    first = time.monotonic() - start
    await audio.recv()
    second = time.monotonic() - start
    assert first >= 0.029
    assert second >= 0.049


async def test_old_pictures_go_and_a_second_of_sound_is_kept() -> None:
    video, audio = VideoOut(time.monotonic, lambda _: None), AudioOut(time.monotonic)
    for slot in range(30):
        kept = video.put(slot, np.zeros((2, 2, 3), np.uint8))
        assert kept == (slot < VIDEO_QUEUE)
        assert audio.put(slot, np.zeros(1920, np.int16), 0.0) == (2 * slot + 2 <= AUDIO_QUEUE)
    assert (await video.recv()).pts == (30 - VIDEO_QUEUE) * 3600
    assert (await audio.recv()).pts == (60 - AUDIO_QUEUE) * 960


async def test_the_time_until_the_next_picture_is_asked_for_is_reported() -> None:
    now = [10.0]
    took: list[float] = []
    video = VideoOut(lambda: now[0], took.append)
    video.put(0, np.zeros((2, 2, 3), np.uint8))
    video.put(1, np.zeros((2, 2, 3), np.uint8))
    await video.recv()
    now[0] += 0.007  # encoding and sending
    await video.recv()
    assert took == [pytest.approx(0.007)]


async def test_stop_ends_the_reader_and_is_idempotent() -> None:
    for track in (VideoOut(time.monotonic, lambda _: None), AudioOut(time.monotonic)):
        reader = asyncio.create_task(track.recv())
        await asyncio.sleep(0)
        track.stop()
        track.stop()
        with pytest.raises(MediaStreamError):
            await reader
