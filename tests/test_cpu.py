"""Processor time by part: threads by name, sending as a share of the event loop."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from server.compute.cpu import SENDING, CpuCollector, cpu_by_part
from server.metrics import Metrics
from tests.server_fakes import calling, running


def burn(seconds: float) -> None:
    begin = time.thread_time()
    while time.thread_time() - begin < seconds:
        sum(range(1000))


def test_the_time_of_a_lane_is_told_as_such() -> None:
    before = cpu_by_part()
    with ThreadPoolExecutor(1, thread_name_prefix="device") as pool:
        pool.submit(burn, 0.1).result()
        after = cpu_by_part()
    assert 0.09 < after["lanes"] - before["lanes"] < 0.5
    assert after["event_loop"] - before["event_loop"] < 0.09


async def test_the_loops_own_pool_encodes() -> None:
    before = cpu_by_part()
    await asyncio.to_thread(burn, 0.1)
    assert cpu_by_part()["encode"] - before["encode"] > 0.09


async def test_sent_packets_are_counted_and_told() -> None:
    packets, cpu_s = SENDING.packets, SENDING.cpu_s
    async with running() as url, calling(url) as client:
        await client.until(lambda: len(client.pictures) > 5)
    assert SENDING.packets - packets > 10
    assert SENDING.cpu_s > cpu_s
    SENDING.install()  # again: nothing is wrapped twice
    text = Metrics().text().decode()
    assert f"mytalk_packets_total {float(SENDING.packets)}" in text
    names = {metric.name for metric in CpuCollector().collect()}
    assert names == {"mytalk_cpu_seconds", "mytalk_packets"}
