"""The overseer's second: costs from counters, levels to sessions, and refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from server.compute.admission import Admission
from server.compute.degradation import BAD_RUN, GOOD_RUN, LEVELS, Level
from server.compute.overseer import Overseer
from server.metrics import Metrics
from tests.fakes import FakeClock, voice
from tests.server_fakes import FakeCast, calling, running
from tests.test_peer import an_offer


class Guest:
    def __init__(self, talking: bool = True) -> None:
        self.talking, self.levels = talking, []

    def is_talking(self, now: float) -> bool:
        return self.talking

    def degrade(self, level: Level) -> None:
        self.levels.append(level.name)


class Hours:
    """A worker's counters and metrics that pass as told."""

    def __init__(self, lanes: int = 2, tidy: Callable[[], None] = lambda: None) -> None:
        self.busy_s = self.cpu_s = self.process_s = 0.0
        self.preparing = False
        self.metrics, self.clock, self.lanes = Metrics(), FakeClock(), lanes
        worker: Any = self
        self.overseer = Overseer(
            worker, self.metrics, Admission(lanes, 2), self.clock, preparing=lambda: self.preparing, tidy=tidy
        )

    def second(self, guests: list[Guest], picture_s: float, late: int = 0) -> None:
        spoken = 25 * sum(guest.talking for guest in guests)
        self.busy_s += spoken * picture_s
        self.cpu_s += spoken * picture_s
        self.process_s += spoken * picture_s + 25 * len(guests) * 0.001
        self.metrics.sent.spoken += spoken
        self.metrics.sent.late += late
        self.metrics.sent.slices += 25 * len(guests)
        self.clock.advance(1.0)
        self.overseer.look(guests, self.process_s)


def test_who_would_not_fit_is_refused_and_who_looks_on_costs_little() -> None:
    hours, guests = Hours(), [Guest(), Guest(talking=False)]
    assert hours.overseer.refusal(guests, 0) is None
    for _ in range(3):
        hours.second(guests, picture_s=0.020)  # half a lane each
    assert "mytalk_load 0.27" in hours.metrics.text().decode()  # 0.5 + 0.05 of two cores
    assert hours.overseer.refusal(guests, 0) is None
    assert hours.overseer.refusal([*guests, Guest()], 0) is None
    assert "would take" in str(hours.overseer.refusal([*guests, Guest(), Guest()], 0))
    assert "would take" in str(hours.overseer.refusal(guests, 2)), "those being built count, too"
    assert hours.overseer.refusal([Guest(talking=False) for _ in range(20)], 0) is None


def test_levels_reach_the_sessions_in_order_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    hours, guests = Hours(), [Guest()]
    for _ in range(3 * BAD_RUN):
        hours.second(guests, 0.020, late=20)
    assert guests[0].levels == [level.name for level in LEVELS[1:]]
    assert "mytalk_degradation_level 3.0" in hours.metrics.text().decode()
    assert "level 1, larger hop" in caplog.text
    assert "already take more" in str(hours.overseer.refusal(guests, 0))
    for _ in range(GOOD_RUN):
        hours.second(guests, 0.010)
    assert guests[0].levels[-1] == "fewer steps"
    assert hours.overseer.level is LEVELS[2]


async def test_it_looks_by_itself_and_ends() -> None:
    hours, guests = Hours(), [Guest()]
    looked = asyncio.Event()

    def open_now() -> list[Guest]:
        looked.set()
        return guests

    hours.overseer.start(open_now)
    await asyncio.wait_for(looked.wait(), 5)
    await hours.overseer.close()
    await hours.overseer.close()


async def test_a_busy_server_refuses_the_next_with_retry_after_until_it_is_quiet() -> None:
    """A fake device of 70 ms for two pictures: one talking session fills a lane, two would not fit."""
    cast = FakeCast(job_s=0.035)
    async with running(cast, max_sessions=8, lanes=1) as url, calling(url) as talker:
        talker.push(voice(4.0, 24_000))
        await talker.until(lambda: talker.told("speech_started"))
        begin, refused = time.monotonic(), None
        while refused is None and time.monotonic() - begin < 10.0:
            await asyncio.sleep(0.3)
            body = {"sdp": await an_offer(), "type": "offer"}
            async with talker.http.post(f"{url}/offer", json=body) as response:
                if response.status == 503:
                    refused = await response.json(), response.headers["Retry-After"]
        assert refused is not None
        assert refused[0]["error"]["code"] == "machine_busy"
        assert int(refused[1]) >= 1


def test_it_tidies_up_once_when_nobody_is_left() -> None:
    tidied: list[int] = []
    hours = Hours(tidy=lambda: tidied.append(1))
    hours.preparing = True
    hours.second([], picture_s=0.0)
    assert not tidied
    hours.preparing = False
    for _ in range(3):
        hours.second([], picture_s=0.0)
    assert len(tidied) == 1
    for _ in range(3):
        hours.second([Guest()], picture_s=0.02)
    assert len(tidied) == 1
    hours.second([], picture_s=0.0)
    assert len(tidied) == 2
