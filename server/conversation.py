"""One session at work: paces slices into its tracks, lends its jobs to the worker, tells its listeners."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from mytalk.clock import FRAME_S, PLAYOUT_RATE
from mytalk.session import TalkSession
from mytalk.session.report import Playing, SessionEvent
from mytalk.types import I16, U8, AvSlice, Job, JobResult
from server.actors.cast import SharedRenderer
from server.compute.admission import SILENT_S
from server.compute.degradation import Level
from server.compute.worker import Worker
from server.metrics import Figures, Metrics
from server.rtc.idle_reel import IdleReel
from server.rtc.tracks import AudioOut, VideoOut
from server.speech_socket import Message

logger = logging.getLogger(__name__)
PROGRESS_EVERY_S = 0.25  # while there is speech
STATS_EVERY = 4  # of those
Listener = Callable[[Message], None]


def event_message(event: SessionEvent) -> Message:
    """One session event for the client."""
    message: Message = {
        "type": event.kind,
        "slot": event.slot,
        "utterance": event.utterance,
        "played_samples": event.samples,
    }
    return message | {"message": event.detail} if event.detail else message


def progress_message(playing: Playing) -> Message:
    """How far the current utterance is, for the client."""
    return {
        "type": "progress",
        "utterance": playing.utterance,
        "played_samples": playing.played_samples,
        "queued_s": round(playing.queued_s, 3),
        "room_s": round(playing.room_s, 3),
    }


class Conversation:
    """Owns a ``TalkSession`` and its pacing; it is the worker's customer and the speech channels' sink.

    Everything runs on the event loop but ``execute``, which the worker calls on its threads.
    """

    def __init__(
        self,
        session_id: str,
        session: TalkSession,
        renderer: SharedRenderer,
        worker: Worker,
        metrics: Metrics,
        clock: Callable[[], float],
        reel: IdleReel | None = None,
    ) -> None:
        """reel: the actor's idle loop as it is encoded for everybody."""
        self.id = session_id
        self.clock = clock
        self.figures = Figures(metrics)
        self.microphone_stats: Callable[[], dict[str, Any] | None] = lambda: None  # set by who listens
        self.video = VideoOut(clock, on_sent=lambda seconds: self.figures.stage("encode_send", seconds))
        self.audio = AudioOut(clock)
        self.renderer = renderer
        self._session = session
        self._worker = worker
        self._metrics = metrics
        self._reel = reel
        self._listeners: set[Listener] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._media = False
        self._active_s = clock()  # when it spoke last
        self._closed = False
        self._last_picture: U8 | None = None

    def start(self, on_failure: Callable[[str], None]) -> None:
        """Begin to pace; call once, on the event loop. ``on_failure``: told when it cannot go on."""
        if self._closed:
            return  # it ended while it was being built: nothing would ever stop the tasks

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                logger.error("%s failed", task.get_name(), exc_info=error)
                on_failure(f"{task.get_name()} failed: {error}")

        self._worker.add(self)
        self._tasks = [
            asyncio.create_task(self._pace(), name=f"pace {self.id}"),
            asyncio.create_task(self._report(), name=f"report {self.id}"),
        ]
        for task in self._tasks:
            task.add_done_callback(ended)

    async def close(self) -> None:
        """Stop everything this object started; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._worker.remove(self)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._session.close()
        self.video.stop()
        self.audio.stop()
        self._tell({"type": "closed"})
        self._listeners.clear()

    def is_talking(self, now: float) -> bool:
        """Whether it has spoken lately, or is new and will."""
        return now - self._active_s <= SILENT_S

    def degrade(self, level: Level) -> None:
        """Serve it at this level from now on."""
        self._session.economise(
            hop_factor=level.hop_factor,
            picture_every=level.picture_every,
            fewest_steps=level.fewest_steps,
        )

    def begin_media(self) -> None:
        """The peer is connected: slices go to the tracks from now on (before, nobody would fetch them)."""
        self._media = True

    # speech in

    def push_speech(self, samples: I16, rate_hz: int) -> None:
        """Speech of a channel, at any pace: int16 [n] mono."""
        self._session.receive_speech(samples, rate_hz, now=self.clock(), live=False)
        self._after_input()

    def hear(self, samples: I16) -> None:
        """Speech of the microphone, 48 kHz int16 [n] mono, as it comes."""
        self._session.receive_speech(samples, PLAYOUT_RATE, now=self.clock(), live=True)
        self._after_input()

    def end_of_speech(self) -> None:
        """The pushed utterance is complete."""
        self._session.end_of_speech(self.clock())
        self._after_input()

    def interrupt(self) -> None:
        """Stop talking now; listeners are told with an ``interrupted`` event."""
        self._session.interrupt(self.clock())
        self._after_input()

    def configure(self, knobs: Mapping[str, int]) -> dict[str, int]:
        """Turn the latency/quality knob; returns what holds now."""
        self._session.configure(**knobs)
        self._after_input()
        return self._session.knobs()

    def queued_s(self) -> float:
        """Seconds of speech taken and not yet played."""
        return self._session.stats().buffered_s

    def _after_input(self) -> None:
        self._publish_events()
        self._worker.wake()

    # listeners

    def add_listener(self, listener: Listener) -> None:
        """Send every event and figure to ``listener`` too; it must not block or raise."""
        self._listeners.add(listener)

    def remove_listener(self, listener: Listener) -> None:
        """Idempotent."""
        self._listeners.discard(listener)

    def _tell(self, message: Message) -> None:
        for listener in tuple(self._listeners):
            listener(message)

    def _publish_events(self) -> None:
        for event in self._session.events():
            self._tell(event_message(event))

    def stats(self) -> dict[str, Any]:
        """Figures of this session (docs/protocol.md)."""
        now, session = self.clock(), self._session.stats()
        return {
            "session_id": self.id,
            "server_s": now,
            "state": session.state,
            "knobs": self._session.knobs(),
            **self.figures.as_json(now, session.live_delay_s),
            "buffered_s": round(session.buffered_s, 3),
            "played_samples": session.played_samples,
            "dropped_live_s": round(session.dropped_live_s, 3),
            "failed_jobs": session.failed_jobs,
            "skipped_frames": session.skipped_frames,
            "stalled_s": round(session.stalled_s, 3),
            "microphone": self.microphone_stats(),
        }

    async def _report(self) -> None:
        for tick in itertools.count(1):
            await asyncio.sleep(PROGRESS_EVERY_S)
            if not self._listeners:  # percentiles for nobody took 3 % of the event loop
                continue
            playing = self._session.playing()
            if playing is not None:
                self._tell(progress_message(playing))
            if tick % STATS_EVERY == 0:
                self._tell({"type": "stats", **self.stats()})

    # the worker's customer

    def runs_dry(self) -> float:
        """When its next job is due (monotonic seconds)."""
        return self._session.runs_dry()

    def next_job(self) -> Job | None:
        """What to compute now."""
        return self._session.next_job()

    def execute(self, job: Job) -> JobResult:
        """Compute, on a device thread."""
        return self.renderer.execute(job)

    def complete(self, job: Job, result: JobResult, now: float) -> None:
        """Take a result."""
        for stage, seconds in result.stages_s.items():
            self.figures.stage(stage, seconds)
        self._session.complete(job, result, now)
        self._publish_events()

    def fail(self, job: Job, error: Exception, now: float) -> None:
        """Take a failure: the session goes on without this result."""
        self._metrics.job_failures.inc()
        self._session.fail(job, error, now)
        self._publish_events()

    # slices out

    async def _pace(self) -> None:
        while True:
            wait_s = self._session.next_due() - self.clock()
            await asyncio.sleep(max(0.0, wait_s))
            due_s, now = self._session.next_due(), self.clock()
            if now < due_s:
                continue  # woken early; ask again
            for index, piece in enumerate(self._session.slices_due(now)):
                self._emit(piece, due_s + index * FRAME_S, now)
            self._publish_events()
            self._worker.wake()

    def _emit(self, piece: AvSlice, due_s: float, now: float) -> None:
        picture, part = piece.picture, None
        if picture is None and piece.late:
            picture = self._last_picture
        if picture is None:
            picture = self.renderer.idle_picture(piece.clip_index)
            part = None if self._reel is None else self._reel.part(piece.play_position)
        self._last_picture = picture
        self.figures.slice_emitted(piece, due_s, now)
        if piece.speech_sample is not None:
            self._active_s = now
        if not self._media:
            return
        if not self.video.put(piece.slot, picture, part):
            self.figures.dropped_pictures += 1
            self._metrics.dropped.labels("video").inc()
        if not self.audio.put(piece.slot, piece.samples, due_s):
            self._metrics.dropped.labels("audio").inc()
