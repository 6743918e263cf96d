"""``TalkSession``: decides what to compute and which slice is due; it does no I/O and reads no clock.

A shell feeds it speech, runs the jobs it asks for (one at a time) and takes the slices that fall due:

    receive_speech / end_of_speech / interrupt → next_job → complete or fail → slices_due
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mytalk.audio.resample import check_rate
from mytalk.clock import FRAME_S, PLAYOUT_SAMPLES_PER_FRAME
from mytalk.config import SessionConfig
from mytalk.engines.engine import EngineSpec
from mytalk.errors import BadInput, SessionClosed
from mytalk.session.anchor import may_start, set_anchor
from mytalk.session.intake import Moment, SpeechQueue
from mytalk.session.knobs import Knobs
from mytalk.session.plan import Closing, Flight, Utterance
from mytalk.session.report import EventKind, EventLog, Playing, SessionEvent, SessionStats
from mytalk.session.stage import Stage
from mytalk.session.state import TRANSITIONS, Change, State
from mytalk.types import (
    I16,
    ActorView,
    AvSlice,
    Job,
    JobResult,
    MotionJob,
    MotionResult,
    MotionState,
    PictureJob,
    PictureResult,
)

MAX_EVENTS = 256  # undrained events beyond it: the oldest are dropped and counted


class TalkSession:
    """One actor who idles, and speaks what comes in; see the module docstring for the order of calls.

    Not thread-safe. ``now``: monotonic seconds, never falling. Slot k leaves at construction + k · 40 ms.
    """

    def __init__(
        self,
        actor: ActorView,
        spec: EngineSpec,
        initial_state: MotionState,
        config: SessionConfig,
        *,
        seed: int,
        now: float,
    ) -> None:
        """``initial_state`` is the engine's memory with nothing known; ``seed`` fixes the diffusion noise."""
        self._actor, self._spec, self._seed = actor, spec, seed
        self._knobs = Knobs(config, spec)
        self._initial_state = initial_state
        self._state = State.IDLE
        self._now = now
        self._generation = 0
        self._stage = Stage(actor, now)
        self._queue = SpeechQueue(config, spec, self._make_utterance)
        self._closing: Closing | None = None
        self._flight: Flight | None = None
        self._starved_slots = 0
        self._events = EventLog(MAX_EVENTS)

    # -- speech comes in -------------------------------------------------------------------------------

    def receive_speech(self, samples: I16, rate_hz: int, *, now: float, live: bool) -> None:
        """Take mono PCM, int16 [n] at ``rate_hz``; it continues the open utterance or begins a new one.

        ``live``: it comes in as it is spoken (a microphone); otherwise it may run ahead of real time.
        Pushed speech ends live speech; while pushed speech is here, live speech is dropped and counted.
        Raises ``BadInput``, ``Overloaded`` (nothing was taken) or ``SessionClosed``.
        """
        if self._state is State.CLOSED:
            raise SessionClosed("the session is closed")
        check_rate(rate_hz)
        if samples.ndim != 1 or samples.dtype != np.int16:
            raise BadInput(f"speech must be int16 [n], not {samples.dtype} {list(samples.shape)}", "bad_pcm")
        self._now = now
        if len(samples) == 0:
            return
        receive = self._queue.receive_live if live else self._queue.receive_pushed
        receive(samples, rate_hz, self._moment())
        if self._state is State.IDLE and self._queue.current is not None:
            self._move(Change.QUEUED)

    def _make_utterance(self, number: int, rate_hz: int, live: bool, now: float) -> Utterance:
        return Utterance(
            number,
            rate_hz,
            live=live,
            now=now,
            actor=self._actor,
            spec=self._spec,
            initial_state=self._initial_state,
            config=self._knobs.live if live else self._knobs.pushed,
        )

    def _moment(self) -> Moment:
        return Moment(
            self._now,
            self.next_due(),
            self._state is State.SPEAKING,
            self._state is State.BUFFERING and self._stage.mouth_open,
        )

    def end_of_speech(self, now: float) -> None:
        """The open utterance is complete; what is here is played to its end. Does nothing if none is open."""
        self._now = now
        self._queue.end(self._moment())

    def interrupt(self, now: float) -> int:
        """Stop speaking: everything pending is dropped at once and the mouth closes.

        Returns how many 48 kHz samples of the current utterance have been played.
        """
        self._now = now
        if self._state is State.CLOSED:
            return 0
        current = self._queue.current
        played = 0 if current is None else current.played_samples
        self._tell("interrupted", samples=played)
        self._generation += 1
        self._queue.clear()
        self._close_mouth()
        return played

    def configure(
        self, *, hop: int | None = None, lookahead: int | None = None, steps: int | None = None
    ) -> None:
        """Turn the latency/quality knob while it runs; what is None stays as it is.

        hop, lookahead: frames, from each utterance's next hop on; one whose end is known keeps its own.
        steps: diffusion steps, 0 = the engine's default. The delay of a live microphone follows.
        Raises ``BadInput``, and nothing is changed.
        """
        self._knobs = self._knobs.turned(hop, lookahead, steps)
        self._queue.configure(self._knobs.live, self._knobs.pushed)

    def knobs(self) -> dict[str, int]:
        """What ``configure`` can turn, as it stands."""
        return self._knobs.as_dict()

    def economise(self, *, hop_factor: int, picture_every: int, fewest_steps: bool = False) -> None:
        """Do with less work from now on (see ``Knobs``); 1, 1: all that was asked for."""
        self._knobs = replace(
            self._knobs, hop_factor=hop_factor, picture_every=picture_every, fewest_steps=fewest_steps
        )
        self._queue.economise(self._knobs.live)

    @property
    def _config(self) -> SessionConfig:
        return self._knobs.asked

    def close(self) -> None:
        """Let go of everything; idempotent. Nothing comes out afterwards."""
        if self._state is not State.CLOSED:
            self._move(Change.CLOSE)
            self._generation += 1
            self._queue.clear()
            self._closing = self._flight = None

    # -- what to compute -------------------------------------------------------------------------------

    def next_job(self) -> Job | None:
        """The next job to run, or None: nothing to do, or one is in flight already."""
        if self._flight is not None or self._state is State.CLOSED:
            return None
        closing = (
            None if self._closing is None else self._picture_flight(self._closing, self._config.hop_frames)
        )
        self._flight = closing or self._speech_flight()
        return None if self._flight is None else self._flight.job

    def _picture_flight(self, owner: Utterance | Closing, most: int) -> Flight | None:
        frames = owner.track.next_wanted(most)
        if not frames:
            return None
        return Flight(PictureJob(self._generation, owner.track.shows(frames)), owner, frames)

    def _speech_flight(self) -> Flight | None:
        """The job that is due soonest: pictures before motion, the current utterance before queued ones."""
        ahead = sum(utterance.pending_frames for utterance in self._queue.utterances)
        previous: Utterance | None = None
        for utterance in self._queue.utterances:
            if utterance.anchor is None:
                if utterance.start_at is None:
                    return None
                set_anchor(utterance, previous, self._closing, self._stage)
            flight = self._picture_flight(utterance, utterance.hop_frames)
            if flight is not None:
                return flight
            hopeless = self._stage.late_run >= self._config.max_late_frames
            skipped = utterance.skip_motion() if hopeless and previous is None else 0
            if skipped:
                self._stage.count.skipped_frames += skipped
                self._tell("skipped", detail=f"motion was behind and skipped {skipped} frames")
            utterance.take_knobs()
            while not utterance.all_planned:
                fits = ahead + utterance.hop_frames <= self._config.ahead_frames
                if not fits or not utterance.can_plan(utterance.next_motion):
                    return self._picture_flight(utterance, utterance.hop_frames)
                if not utterance.rest_hop():
                    job = utterance.motion_job(self._generation, self._seed, self._knobs.steps)
                    return Flight(job, utterance, ())
                ahead += utterance.hop_frames
            flight = self._picture_flight(utterance, utterance.hop_frames)  # of a mouth that closes to rest
            if flight is not None:
                return flight
            previous = utterance
        return None

    def complete(self, job: Job, result: JobResult, now: float) -> None:
        """Take the result of the job in flight; results of an older generation are dropped."""
        flight = self._land(job, now)
        if flight is None:
            return
        if isinstance(job, MotionJob) and isinstance(flight.owner, Utterance):
            expected = (job.hop, self._spec.compact, 3)
            if not isinstance(result, MotionResult) or result.displacement.shape != expected:
                self._failed(flight, f"the motion result is not {list(expected)}")
            else:
                flight.owner.motion_done(result, self._knobs.picture_every)
        elif not isinstance(job, PictureJob) or not isinstance(result, PictureResult):
            self._failed(flight, "the result is not of the job's kind")
        elif len(result.pictures) != len(flight.frames):
            self._failed(flight, f"the picture result does not hold {len(flight.frames)} pictures")
        else:
            flight.owner.track.done(flight.frames, job.frames, result.pictures, now)

    def fail(self, job: Job, error: Exception, now: float) -> None:
        """The job in flight failed: its frames repeat the previous picture and the session goes on."""
        flight = self._land(job, now)
        if flight is not None:
            self._failed(flight, f"{type(error).__name__}: {error}")

    def _land(self, job: Job, now: float) -> Flight | None:
        """End the flight of a job; None if its result must not be used."""
        if self._state is State.CLOSED:
            return None
        self._now = now
        flight = self._flight
        if flight is None or flight.job is not job:
            raise ValueError("this job is not in flight")
        self._flight = None
        return flight if job.generation == self._generation else None

    def _failed(self, flight: Flight, detail: str) -> None:
        self._stage.count.failed_jobs += 1
        if isinstance(flight.job, MotionJob) and isinstance(flight.owner, Utterance):
            flight.owner.motion_failed()
        else:
            flight.owner.track.broke(flight.frames)
        self._tell("job_failed", detail=detail)

    # -- slices go out ---------------------------------------------------------------------------------

    def next_due(self) -> float:
        """When the next slice leaves (monotonic seconds)."""
        return self._stage.next_due_s

    def runs_dry(self) -> float:
        """When it runs out of finished pictures (monotonic seconds), which is when its next job is due.

        Pictures that were late move it into the past, so that of many sessions none is left behind.
        """
        slots: int = 0
        if self._closing is not None:
            slots = self._closing.track.settled_run(self._closing.next_play)
        elif self._queue.current is not None:
            slots = self._queue.current.settled_slots(self._stage.slot)
        return self._stage.next_due_s + (slots - self._stage.late_run) * FRAME_S

    def slices_due(self, now: float) -> list[AvSlice]:
        """The slices that are due by now, oldest first; a stall beyond the catch-up bound moves the clock."""
        self._now = now
        slices: list[AvSlice] = []
        if self._state is not State.CLOSED:
            self._stage.forgive_stall(now, self._config.max_burst_slots)
            while self._stage.next_due_s <= now and len(slices) < self._config.max_burst_slots:
                slices.append(self._next_slice())
        return slices

    def _next_slice(self) -> AvSlice:
        current = self._queue.current
        if self._state is State.SPEAKING and current is not None and not current.can_plan(current.next_play):
            self._starve(current)
        if self._state is State.BUFFERING and current is not None:
            self._leave_buffering(current)
        if self._state in {State.SPEAKING, State.ENDING} and current is not None:
            return self._talking_slice(current)
        if self._state is State.CLOSING_MOUTH and self._closing is not None:
            return self._closing_slice(self._closing)
        if self._stage.mouth_open:
            return self._held_slice(current)
        if current is not None and current.reached(self._stage.position):
            return self._stage.hold(self._generation)
        return self._stage.idle(self._generation)

    def _starve(self, current: Utterance) -> None:
        """The next speech is not here: playout pauses and is anchored anew when it comes."""
        current.anchor = current.start_at = None
        self._starved_slots = 0
        self._move(Change.STARVED)
        self._tell("starved", samples=current.played_samples)

    def _leave_buffering(self, current: Utterance) -> None:
        """Start (or resume) the current utterance if it is time and its pictures are there."""
        if may_start(current, self._closing, self._stage, self._config.start_wait_s):
            self._tell("resumed" if current.started else "speech_started", samples=current.played_samples)
            current.started = True
            self._move(Change.STARTED)

    def _talking_slice(self, current: Utterance) -> AvSlice:
        frame, before = current.next_play, current.played_samples
        samples, ready = current.speech.frame_samples(frame), current.track.take(frame)
        overdue = current.track.take_overdue()
        made = self._stage.talk(ready, overdue, samples, frame * PLAYOUT_SAMPLES_PER_FRAME, self._generation)
        current.next_play += 1
        if current.live and made.slack_s is not None:
            self._queue.pictured(made.slack_s)
        current.speech.forget_played(current.next_play)
        self._stage.count.played_samples += current.played_samples - before
        if self._state is State.SPEAKING and current.speech.ended and current.unplayed_samples == 0:
            self._move(Change.ALL_SPOKEN)
            self._tell("speech_ended", samples=current.played_samples)
        if current.finished:
            self._queue.utterances.popleft()
            self._rest()
        return made

    def _held_slice(self, current: Utterance | None) -> AvSlice:
        """A starved utterance keeps its last picture; if its speech stays away, the mouth closes."""
        made = self._stage.hold(self._generation)
        self._starved_slots += 1
        away = current is not None and current.start_at is None
        if away and self._starved_slots >= self._config.hold_frames:
            self._close_mouth()
        return made

    def _closing_slice(self, closing: Closing) -> AvSlice:
        made = self._stage.shut(closing.track.take(closing.next_play), self._generation)
        closing.next_play += 1
        if closing.remaining == 0:
            self._rest()
        return made

    def _close_mouth(self) -> None:
        """From whatever is on show to the idle face, smoothly."""
        displacement = self._stage.displacement
        if displacement is None:
            self._rest()
            return
        self._closing = Closing(displacement, self._stage.position, self._actor, self._config.close_frames)
        self._move(Change.MOUTH_OPEN)

    def _rest(self) -> None:
        """The mouth is closed: idle, or on to the utterance that waits."""
        self._closing = None
        self._stage.idle_face()
        if self._state is not State.IDLE:
            self._move(Change.MOUTH_CLOSED)
        if self._queue.current is not None:
            self._move(Change.QUEUED)

    # -- what it tells ---------------------------------------------------------------------------------

    def events(self) -> list[SessionEvent]:
        """What has happened since the last call."""
        return self._events.drain()

    def playing(self) -> Playing | None:
        """How far the current utterance is; None when there is none."""
        return self._queue.playing

    def stats(self) -> SessionStats:
        """Counters and the present state."""
        return self._stage.count.stats(
            state=self._state.name.lower(),
            generation=self._generation,
            dropped_events=self._events.dropped,
            dropped_live_s=self._queue.dropped_live_s,
            buffered_s=self._queue.unplayed_s,
            live=self._queue.live,
            slack_s=tuple(self._stage.slack_s),
        )

    def _move(self, change: Change) -> None:
        self._state = TRANSITIONS[self._state, change]

    def _tell(self, kind: EventKind, *, samples: int = 0, detail: str = "") -> None:
        number = -1 if (current := self._queue.current) is None else current.number
        self._events.add(SessionEvent(kind, self._stage.slot, number, self._generation, samples, detail))
