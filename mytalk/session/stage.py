"""The playout timeline of a session: what is on show, what the next slice looks like, and its counters."""

from __future__ import annotations

from collections import deque

import numpy as np

from mytalk.clock import FRAME_S, PLAYOUT_SAMPLES_PER_FRAME
from mytalk.session.plan import ReadyPicture, Repeating, Resting, Settled
from mytalk.session.report import Counters
from mytalk.types import F32, I16, ActorView, AvSlice


class Stage:
    """Makes slices, one per slot; ``position`` is the play position in the actor's clip of the next one.

    A talking picture stays on show until the mouth is closed; without one the idle face is on show.
    """

    def __init__(self, actor: ActorView, origin_s: float) -> None:
        self.slot = 0
        self.position = 0
        self.count = Counters()
        self.slack_s: deque[float] = deque(maxlen=250)
        self._actor = actor
        self._origin_s = origin_s  # due time of slot 0; a long stall moves it
        self._shown: ReadyPicture | None = None
        self.late_run = 0

    @property
    def next_due_s(self) -> float:
        """When the next slice leaves (monotonic seconds)."""
        return self._origin_s + self.slot * FRAME_S

    def slots_until(self, time_s: float) -> float:
        """A time on the slot timeline: slot k leaves at k."""
        return (time_s - self._origin_s) / FRAME_S

    def forgive_stall(self, now: float, max_slots: int) -> None:
        """Move the clock if more than ``max_slots`` slices are overdue: nobody wants them in one burst."""
        overdue = int((now - self.next_due_s) / FRAME_S) + 1
        if overdue > max_slots:
            moved_s = (overdue - max_slots) * FRAME_S
            self._origin_s += moved_s
            self.count.stalled_s += moved_s

    @property
    def mouth_open(self) -> bool:
        """Whether a talking picture is on show."""
        return self._shown is not None

    @property
    def displacement(self) -> F32 | None:
        """What the mouth does on show, float32 [Kc, 3]; None for the idle face."""
        return None if self._shown is None else self._shown.shows.displacement

    def idle_face(self) -> None:
        """From the next slice on, the idle face is on show."""
        self._shown = None
        self.late_run = 0

    def talk(
        self,
        ready: Settled | None,
        overdue: ReadyPicture | None,
        samples: I16,
        speech_sample: int,
        generation: int,
    ) -> AvSlice:
        """A frame of an utterance: its samples, and its picture or, if that is late, an earlier one.

        A face that rests is the idle one; like a picture that is to be repeated, it has no deadline.
        """
        self.count.talking += 1
        if isinstance(ready, Resting):
            self.idle_face()
            self.count.resting += 1
            return self._slice(samples, generation, speech_sample)
        if isinstance(ready, Repeating):
            self.count.repeated += 1
            return self._slice(samples, generation, speech_sample)
        slack_s = self._show(ready)
        if ready is None and overdue is not None:
            self._shown = overdue
        self.slack_s.append(slack_s)
        return self._slice(samples, generation, speech_sample, late=ready is None, slack_s=slack_s)

    def shut(self, ready: Settled | None, generation: int) -> AvSlice:
        """A frame of a closing mouth, in silence."""
        slack_s = self._show(ready if isinstance(ready, ReadyPicture) else None)
        self.count.closing += 1
        return self._slice(_silence(), generation, late=ready is None, slack_s=slack_s)

    def hold(self, generation: int) -> AvSlice:
        """The same as in the slot before, in silence; the clip stands still."""
        self.count.held += 1
        self.count.repeated += self.mouth_open
        self.position -= 1
        return self._slice(_silence(), generation)

    def idle(self, generation: int) -> AvSlice:
        """The idle face, in silence."""
        self.count.idle += 1
        return self._slice(_silence(), generation)

    def _show(self, ready: ReadyPicture | None) -> float:
        """Put a picture on show, or keep the previous one if it is late; returns the slack in seconds."""
        if ready is not None:
            self._shown = ready
            self.late_run = 0
            return self.next_due_s - ready.ready_at
        self.late_run += 1
        self.count.late += 1
        self.count.repeated += 1
        return -FRAME_S * self.late_run  # what is shown instead is so much too old

    def _slice(
        self,
        samples: I16,
        generation: int,
        speech_sample: int | None = None,
        *,
        late: bool = False,
        slack_s: float | None = None,
    ) -> AvSlice:
        shown = self._shown
        made = AvSlice(
            slot=self.slot,
            samples=samples,
            picture=None if shown is None else shown.picture,
            clip_index=self._actor.clip_index(max(0, self.position))
            if shown is None
            else shown.shows.clip_index,
            play_position=max(0, self.position),
            speech_sample=speech_sample,
            late=late,
            slack_s=slack_s,
            generation=generation,
        )
        self.slot += 1
        self.position += 1
        self.count.slices += 1
        return made


def _silence() -> I16:
    return np.zeros(PLAYOUT_SAMPLES_PER_FRAME, np.int16)
