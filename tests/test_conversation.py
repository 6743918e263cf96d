"""One session at work, without a network: paced slices, listeners, failures, an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from mytalk.config import SessionConfig
from mytalk.errors import SessionClosed
from mytalk.session import TalkSession
from mytalk.video.planar import planes_of
from server.compute.worker import Worker
from server.conversation import Conversation
from server.metrics import Metrics
from tests.fakes import FAKE_SPEC, FakeEngine, voice
from tests.server_fakes import FakeRenderer

Made = tuple[Conversation, FakeRenderer, list[dict[str, Any]]]


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    """A conversation that is not started, its renderer and what it tells."""
    worker, renderer = Worker(time.monotonic), FakeRenderer(FakeEngine())
    worker.start()
    session = TalkSession(
        renderer.view, FAKE_SPEC, renderer.initial_state(), SessionConfig(), seed=1, now=time.monotonic()
    )
    conversation = Conversation("id", session, renderer, worker, Metrics(), time.monotonic)
    told: list[dict[str, Any]] = []
    conversation.add_listener(told.append)
    yield conversation, renderer, told
    await conversation.close()
    await worker.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def of(told: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message for message in told if message["type"] == kind]


async def test_idle_slices_are_paced_whether_or_not_somebody_fetches_them(made: Made) -> None:
    conversation, _, _ = made
    conversation.start(on_failure=pytest.fail)
    begin = time.monotonic()
    await until(lambda: conversation.stats()["slices"] >= 25)
    assert 0.85 < time.monotonic() - begin < 3.0
    assert conversation.stats()["dropped_pictures"] == 0, "nothing is queued before media begins"
    conversation.begin_media()
    frame = await asyncio.wait_for(conversation.video.recv(), 2)
    assert (planes_of(frame.picture)[0] == 16).all(), "the idle picture is black"
    await until(lambda: conversation.stats()["dropped_pictures"] > 0)


async def test_speech_is_told_played_and_counted(made: Made) -> None:
    conversation, _, told = made
    conversation.start(on_failure=pytest.fail)
    conversation.push_speech(voice(0.8, 24_000), 24_000)
    assert conversation.queued_s() > 0.5
    conversation.end_of_speech()
    await until(lambda: of(told, "speech_ended"))
    started, ended = of(told, "speech_started")[0], of(told, "speech_ended")[0]
    assert ended["slot"] > started["slot"]
    assert ended["utterance"] == started["utterance"]
    await until(lambda: of(told, "stats"))
    assert set(conversation.stats()["stages_ms"]) >= {"motion"}


async def test_interrupting_is_told_and_ends_the_speech(made: Made) -> None:
    conversation, _, told = made
    conversation.start(on_failure=pytest.fail)
    conversation.push_speech(voice(5.0, 24_000), 24_000)
    await until(lambda: of(told, "speech_started"))
    conversation.interrupt()
    assert of(told, "interrupted")
    assert conversation.queued_s() < 0.5


async def test_a_broken_engine_is_told_and_the_slices_go_on(made: Made) -> None:
    conversation, renderer, told = made
    renderer.broken = True
    conversation.start(on_failure=pytest.fail)
    conversation.push_speech(voice(0.6, 24_000), 24_000)
    conversation.end_of_speech()
    await until(lambda: of(told, "job_failed"))
    assert "broken" in of(told, "job_failed")[0]["message"]
    slices = conversation.stats()["slices"]
    await until(lambda: conversation.stats()["slices"] > slices + 5)
    assert conversation.stats()["failed_jobs"] > 0


async def test_a_pace_that_fails_is_told_once(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation, renderer, _ = made
    why: list[str] = []

    def broken(clip_index: int) -> np.ndarray:
        raise RuntimeError(f"no picture {clip_index}")

    monkeypatch.setattr(renderer, "idle_picture", broken)
    conversation.start(on_failure=why.append)
    await until(lambda: why)
    assert len(why) == 1
    assert "no picture" in why[0]


async def test_closing_tells_ends_the_tracks_and_is_idempotent(made: Made) -> None:
    conversation, _, told = made
    conversation.start(on_failure=pytest.fail)
    reader = asyncio.create_task(conversation.video.recv())
    await asyncio.sleep(0.05)
    await conversation.close()
    await conversation.close()
    assert [message["type"] for message in told].count("closed") == 1
    with pytest.raises(MediaStreamError):
        await reader
    with pytest.raises(SessionClosed):
        conversation.push_speech(voice(0.1, 24_000), 24_000)
    slices = conversation.stats()["slices"]
    await asyncio.sleep(0.15)
    assert conversation.stats()["slices"] == slices


async def test_one_that_ended_before_it_started_starts_nothing(made: Made) -> None:
    conversation, _, _ = made
    await conversation.close()
    conversation.start(on_failure=pytest.fail)
    await asyncio.sleep(0.1)
    assert conversation.stats()["slices"] == 0
