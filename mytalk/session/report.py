"""What a session tells: events as they happen, and counters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

EventKind = Literal[
    "speech_started",  # the first slice of the utterance has left
    "speech_ended",  # its last sample has left
    "interrupted",  # it was cut off; samples tells how much was heard
    "starved",  # its next speech is not here in time; playout pauses
    "resumed",  # speech goes on after a pause
    "job_failed",  # an engine call failed; its frames repeat the previous picture
    "skipped",  # motion fell so far behind that it jumped ahead
]


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One thing that happened.

    slot: playout slot that comes next. utterance: number of the utterance, from 0; -1 when there was none.
    samples: 48 kHz samples of it that have left. detail: one line for a person, or empty.
    """

    kind: EventKind
    slot: int
    utterance: int
    generation: int
    samples: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """delay_s: of the newest live sample, None before the first. target_s: what it is kept at.

    speed: how fast live speech is taken at present to win the target back; 1 is as it comes.
    """

    delay_s: float | None
    target_s: float
    speed: float


@dataclass(frozen=True, slots=True)
class Playing:
    """The utterance that plays now or next: its number, and how many of its 48 kHz samples have left.

    queued_s: speech of all utterances that has not left. room_s: how much more would be taken.
    """

    utterance: int
    played_samples: int
    queued_s: float
    room_s: float


@dataclass(frozen=True, slots=True)
class SessionStats:
    """Counters since the session began, unless stated otherwise.

    slices = talking + closing + held + idle: talking carry speech or its tail, closing shut an interrupted or
    starved mouth, held pause a starved utterance or a start that waits, idle show the resting actor.
    resting: talking slices that show the idle face, since nothing is to be heard and the mouth is closed.
    late: slices whose picture was due but not ready. repeated: slices that show the previous talking picture
    again (late or held). failed_jobs, skipped_frames (motion jumped over them), dropped_events: as named.
    dropped_live_s: live speech dropped to win the delay back, or because pushed speech was playing.
    stalled_s: by how much the slot clock was moved because nobody asked for slices in time.
    played_samples: 48 kHz speech samples that have left, all utterances. buffered_s: unplayed speech, now.
    live: of the microphone.
    slack_s: slack of the last talking slices (see ``AvSlice.slack_s``), oldest first, at most 250.
    """

    state: str
    generation: int
    slices: int
    talking: int
    resting: int
    closing: int
    held: int
    idle: int
    late: int
    repeated: int
    failed_jobs: int
    skipped_frames: int
    dropped_events: int
    dropped_live_s: float
    stalled_s: float
    played_samples: int
    buffered_s: float
    live: LiveFigures
    slack_s: tuple[float, ...]

    @property
    def live_delay_s(self) -> float | None:
        """Delay of the newest live sample, None before the first."""
        return self.live.delay_s


class EventLog:
    """Events until somebody asks for them; the oldest are dropped beyond a bound, and counted."""

    def __init__(self, most: int) -> None:
        self.dropped = 0
        self._events: deque[SessionEvent] = deque(maxlen=most)

    def add(self, event: SessionEvent) -> None:
        """Note an event."""
        self.dropped += len(self._events) == self._events.maxlen
        self._events.append(event)

    def drain(self) -> list[SessionEvent]:
        """All noted events, oldest first; forgets them."""
        events = list(self._events)
        self._events.clear()
        return events


@dataclass(slots=True)
class Counters:
    """The counters of ``SessionStats`` while they grow."""

    slices: int = 0
    talking: int = 0
    resting: int = 0
    closing: int = 0
    held: int = 0
    idle: int = 0
    late: int = 0
    repeated: int = 0
    failed_jobs: int = 0
    skipped_frames: int = 0
    stalled_s: float = 0.0
    played_samples: int = 0

    def stats(
        self,
        *,
        state: str,
        generation: int,
        dropped_events: int,
        dropped_live_s: float,
        buffered_s: float,
        live: LiveFigures,
        slack_s: tuple[float, ...],
    ) -> SessionStats:
        """The counters as they are now, with what is not counted here."""
        return SessionStats(
            state=state,
            generation=generation,
            slices=self.slices,
            talking=self.talking,
            resting=self.resting,
            closing=self.closing,
            held=self.held,
            idle=self.idle,
            late=self.late,
            repeated=self.repeated,
            failed_jobs=self.failed_jobs,
            skipped_frames=self.skipped_frames,
            dropped_events=dropped_events,
            dropped_live_s=dropped_live_s,
            stalled_s=self.stalled_s,
            played_samples=self.played_samples,
            buffered_s=buffered_s,
            live=live,
            slack_s=slack_s,
        )
