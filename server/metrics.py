"""Figures: Prometheus counters of the process and rolling windows of one session."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from mytalk.types import AvSlice
from server.compute.cpu import CpuCollector

POOLS = ("asyncio_", "uvloop_", "device_", "draw_")  # names: asyncio's, uvloop's, the worker's
WINDOW = 250  # slices a rolling figure looks back: ten seconds
STAGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.5, 2.0)
SLACK_BUCKETS_S = (-0.2, -0.1, -0.04, -0.02, 0.0, 0.02, 0.04, 0.08, 0.16, 0.5, 2.0)


@dataclass
class Sent:
    """Slices that left, of all sessions: with speech, of these late ones, and in all."""

    spoken: int = 0
    late: int = 0
    slices: int = 0


class Metrics:
    """The process's Prometheus figures, in a registry of their own."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files (Linux)
        tasks = Gauge("mytalk_tasks", "Tasks on the event loop", registry=self.registry)
        tasks.set_function(_task_count)
        threads = Gauge("mytalk_threads", "Python threads", registry=self.registry)
        threads.set_function(threading.active_count)
        pool = Gauge("mytalk_pool_threads", "Python threads of bounded pools", registry=self.registry)
        pool.set_function(_pool_thread_count)
        self.sessions = Gauge("mytalk_sessions", "Sessions open or being built", registry=self.registry)
        self.sessions_started = Counter("mytalk_sessions_started", "Sessions built", registry=self.registry)
        self.refused = Counter(
            "mytalk_requests_refused", "Requests answered with an error", ["status"], registry=self.registry
        )
        self.slices = Counter(
            "mytalk_slices", "Slices sent, 25 per second and session", ["kind"], registry=self.registry
        )
        self.dropped = Counter(
            "mytalk_dropped", "Queued items dropped, oldest first", ["track"], registry=self.registry
        )
        self.slack = Histogram(
            "mytalk_slack_seconds",
            "How long before its deadline a picture was ready",
            buckets=SLACK_BUCKETS_S,
            registry=self.registry,
        )
        self.stage = Histogram(
            "mytalk_stage_seconds",
            "Time of one stage",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=self.registry,
        )
        # by label, several times a picture: finding a child costs more than counting with it
        self.slices_of, self.stage_of = cache(self.slices.labels), cache(self.stage.labels)
        self.actors_loaded = Gauge("mytalk_actors_loaded", "Actors in memory", registry=self.registry)
        self.actor_memory = Gauge(
            "mytalk_actors_memory_bytes",
            "Pictures and latents of the actors in memory",
            registry=self.registry,
        )
        self.actors_evicted = Counter(
            "mytalk_actors_evicted", "Unused actors that left memory for others", registry=self.registry
        )
        self.uploads = Counter(
            "mytalk_uploads", "Uploads of actors that ended", ["result"], registry=self.registry
        )
        self.registry.register(CpuCollector())
        self.degradation = Gauge(
            "mytalk_degradation_level",
            "What gives way to overload: 0 nothing, 1 larger hop, 2 fewer steps, 3 repeated pictures",
            registry=self.registry,
        )
        self.load = Gauge(
            "mytalk_load", "Share of the machine that the sessions take as measured", registry=self.registry
        )
        self.sent = Sent()
        self.job_failures = Counter("mytalk_job_failures", "Engine calls that failed", registry=self.registry)

    def text(self) -> bytes:
        """The exposition format that Prometheus scrapes."""
        return generate_latest(self.registry)


def _task_count() -> float:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # asked from outside of the event loop
        return 0


def _pool_thread_count() -> float:
    """Pools make a thread whenever none is free, up to their bound, and keep it."""
    return sum(thread.name.startswith(POOLS) for thread in threading.enumerate())


def percentiles_ms(values_s: deque[float], ranks: Sequence[int] = (50, 95, 99)) -> dict[str, float] | None:
    """Percentiles of a rolling window in milliseconds, ``{"p50": …}``; None when it is empty."""
    if not values_s:
        return None
    found = np.percentile(np.fromiter(values_s, float), ranks)
    return {f"p{rank}": round(float(value) * 1e3, 2) for rank, value in zip(ranks, found, strict=True)}


def _window() -> deque[float]:
    return deque(maxlen=WINDOW)


@dataclass
class Figures:
    """Rolling figures of one session, for its page and for the benchmark."""

    metrics: Metrics
    slices: int = 0
    speech_slices: int = 0
    late: int = 0
    dropped_pictures: int = 0
    slack_s: deque[float] = field(default_factory=_window)
    emit_lag_s: deque[float] = field(default_factory=_window)
    emitted_s: deque[float] = field(default_factory=_window)
    stages_s: dict[str, deque[float]] = field(default_factory=dict)

    def slice_emitted(self, piece: AvSlice, due_s: float, now: float) -> None:
        """One slice left; due_s, now: when it should have and when it did (monotonic seconds)."""
        self.slices += 1
        self.metrics.sent.slices += 1
        self.emitted_s.append(now)
        self.emit_lag_s.append(now - due_s)
        kind = "idle"
        if piece.speech_sample is not None:
            self.speech_slices += 1
            kind = "late" if piece.late else "speech"
            self.late += piece.late
            self.metrics.sent.spoken += 1
            self.metrics.sent.late += piece.late
            if piece.slack_s is not None:
                self.slack_s.append(piece.slack_s)
                self.metrics.slack.observe(piece.slack_s)
        self.metrics.slices_of(kind).inc()

    def stage(self, name: str, seconds: float) -> None:
        """One measured duration of a stage."""
        self.stages_s.setdefault(name, _window()).append(seconds)
        self.metrics.stage_of(name).observe(seconds)

    def fps(self, now: float) -> float:
        """Slices that left in the last second or so."""
        return float(sum(1 for moment in self.emitted_s if now - moment <= 1.0))

    def as_json(self, now: float, live_delay_s: float | None) -> dict[str, Any]:
        """The figures of the ``stats`` message (docs/protocol.md).

        live_delay_s: seconds from a live sample's arrival to the due time of its slice, None without a
        microphone. To it are added what the pacing and the encoder took on top.
        """
        late_pct = 100.0 * self.late / self.speech_slices if self.speech_slices else 0.0
        lag, encode = (
            percentiles_ms(self.emit_lag_s),
            percentiles_ms(self.stages_s.get("encode_send", _window())),
        )
        latency_ms = None
        if live_delay_s is not None:
            extra_ms = (lag["p50"] if lag else 0.0) + (encode["p50"] if encode else 0.0)
            latency_ms = round(live_delay_s * 1e3 + extra_ms, 1)
        return {
            "fps": self.fps(now),
            "slices": self.slices,
            "speech_slices": self.speech_slices,
            "late_frames": self.late,
            "late_frames_pct": round(late_pct, 3),
            "dropped_pictures": self.dropped_pictures,
            "latency_ms": latency_ms,
            "slack_ms": percentiles_ms(self.slack_s, (1, 5, 50)),
            "emit_lag_ms": lag,
            "stages_ms": {name: percentiles_ms(values) for name, values in sorted(self.stages_s.items())},
        }
