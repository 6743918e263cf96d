"""Where the processor time of this process goes: by thread, and what sending takes of the event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aiortc.rtcdtlstransport import RTCDtlsTransport
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

# part ← first word of the name of its threads; encoding runs in the event loop's own pool (aiortc's choice)
PARTS = {
    "MainThread": "event_loop",
    "device": "lanes",
    "draw": "lanes",
    "asyncio": "encode",
    "uvloop": "encode",
}


class SendMeter:
    """Processor time and number of the packets that went through DTLS-SRTP: protection and the socket."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.packets = 0
        self._send: Callable[[Any, bytes], Awaitable[None]] | None = None

    def install(self) -> None:
        """Wrap aiortc's method; again is harmless."""
        if self._send is not None:
            return
        meter, original = self, RTCDtlsTransport._send_rtp
        self._send = original

        async def send(transport: Any, data: bytes) -> None:
            begin = time.thread_time()
            try:
                await original(transport, data)
            finally:
                meter.cpu_s += time.thread_time() - begin
                meter.packets += 1

        RTCDtlsTransport._send_rtp = send


SENDING = SendMeter()  # the method that it wraps is the whole process's


def cpu_by_part() -> dict[str, float]:
    """Processor seconds since the start; ``send`` is a share of the event loop's, ``other`` has no part here.

    A pool's threads live as long as the pool, so their clocks are all that was used.
    """
    found = dict.fromkeys(PARTS.values(), 0.0)
    for thread in threading.enumerate():
        part = PARTS.get(thread.name.partition("_")[0])
        if part is not None and thread.ident is not None:
            found[part] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    other = max(0.0, time.process_time() - sum(found.values()))
    found["event_loop"] = max(0.0, found["event_loop"] - SENDING.cpu_s)
    return found | {"send": SENDING.cpu_s, "other": other}


class CpuCollector(Collector):
    """``mytalk_cpu_seconds_total`` and ``mytalk_packets_total``, read when they are asked for."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The families of this moment."""
        seconds = CounterMetricFamily("mytalk_cpu_seconds", "Processor time by part", labels=["part"])
        for part, value in cpu_by_part().items():
            seconds.add_metric([part], value)
        yield seconds
        yield CounterMetricFamily("mytalk_packets", "Media packets sent", value=SENDING.packets)
