"""Speech on its way in: the bounded queue of utterances, and what keeps a live microphone's delay short."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mytalk.audio.live import EARLY_S, LivePace
from mytalk.clock import FRAME_S, PLAYOUT_RATE
from mytalk.config import SessionConfig
from mytalk.engines.engine import EngineSpec
from mytalk.errors import BadInput, Overloaded
from mytalk.session.knobs import needed_delay_s
from mytalk.session.plan import Utterance
from mytalk.session.report import LiveFigures, Playing
from mytalk.types import I16


@dataclass(frozen=True, slots=True)
class Moment:
    """What the queue needs to know of playout when speech comes in.

    now, next_due: monotonic seconds. speaking: speech is leaving. holding: a starved mouth is held open.
    """

    now: float
    next_due: float
    speaking: bool
    holding: bool


class SpeechQueue:
    """Utterances in the order they came; the first one is current, the last one may still be open."""

    def __init__(
        self, config: SessionConfig, spec: EngineSpec, begin: Callable[[int, int, bool, float], Utterance]
    ) -> None:
        """``begin``: makes an utterance from (number, rate in Hz, live, now)."""
        self.utterances: deque[Utterance] = deque()
        self._live_delay_s: float | None = None  # of the newest live sample
        self._config = config
        self._begin_utterance = begin
        self._seen = 0
        self._unheard_s = 0.0
        self._spec = spec
        self._pace = LivePace(config, needed_delay_s(config.for_live, spec))
        self._live = config.for_live
        self._awaited: SessionConfig | None = None  # live settings that the delay has no room for yet

    def configure(self, live: SessionConfig, pushed: SessionConfig) -> None:
        """Other hop and lookahead from the next hop of each utterance on; the live delay goes after them."""
        self._pace.need(needed_delay_s(live, self._spec))
        self._live, self._awaited = live, None
        for utterance in self.utterances:
            utterance.configure(live if utterance.live else pushed)

    def economise(self, live: SessionConfig) -> None:
        """Another hop for live speech because of the load; a larger one begins when the delay has room.

        At once it would make every picture late until then, and the machine is late already.
        """
        if live == self._live:
            return
        self._pace.need(needed_delay_s(live, self._spec))
        larger, self._live = live.hop_frames > self._live.hop_frames, live
        self._awaited = live if larger else None
        for utterance in self.utterances:
            if utterance.live and not (larger and utterance.start_at is not None):
                utterance.configure(live)

    def pictured(self, slack_s: float) -> None:
        """A frame of live speech left whose picture was ready ``slack_s`` before."""
        self._pace.pictured(slack_s)

    @property
    def live(self) -> LiveFigures:
        """How late live speech is, and what is done about it."""
        return LiveFigures(self._live_delay_s, self._pace.target_s, self._pace.speed)

    @property
    def playing(self) -> Playing | None:
        """Which utterance plays or waits, how far, and what room is left; None without one."""
        current = self.current
        if current is None:
            return None
        queued_s = self.unplayed_s
        room_s = max(0.0, self._config.push_buffer_s - queued_s)
        return Playing(current.number, current.played_samples, queued_s, room_s)

    @property
    def dropped_live_s(self) -> float:
        """Live speech that was dropped or cut out."""
        return self._unheard_s + self._pace.dropped_s

    @property
    def current(self) -> Utterance | None:
        """The utterance that plays now or next."""
        return self.utterances[0] if self.utterances else None

    @property
    def _open(self) -> Utterance | None:
        last = self.utterances[-1] if self.utterances else None
        return last if last is not None and not last.speech.ended else None

    @property
    def unplayed_s(self) -> float:
        """Speech that has come in and not left."""
        return sum(utterance.unplayed_samples for utterance in self.utterances) / PLAYOUT_RATE

    def clear(self) -> None:
        """Drop everything."""
        self.utterances.clear()
        self._pace.end()

    def receive_pushed(self, samples: I16, rate_hz: int, at: Moment) -> None:
        """Take speech that may run ahead of real time; it ends live speech. Overloaded: nothing was taken."""
        waiting_s = self.unplayed_s
        if waiting_s + len(samples) / rate_hz > self._config.push_buffer_s:
            over_s = waiting_s + len(samples) / rate_hz - self._config.push_buffer_s
            # speech leaves in real time; a message that is larger than the whole buffer never fits
            fits = len(samples) / rate_hz <= self._config.push_buffer_s
            raise Overloaded(
                f"{waiting_s:.1f} s of speech are waiting already; try again later", over_s if fits else None
            )
        utterance = self._open
        if utterance is None or utterance.live:
            self._check_room()
            if utterance is not None:
                self._end(utterance, at)
            utterance = self._begin(rate_hz, False, at)
        _check_same_rate(utterance, rate_hz)
        self._append(utterance, samples, at)

    def receive_live(self, samples: I16, rate_hz: int, at: Moment) -> None:
        """Take speech as it is spoken; while pushed speech is here it is dropped, never refused."""
        utterance = self._open
        if utterance is None or not utterance.live:
            stalled = utterance is not None and self._stalled(utterance, at)
            pushed = any(not other.live for other in self.utterances)
            if (pushed and not stalled) or len(self.utterances) >= self._config.max_utterances:
                self._unheard_s += len(samples) / rate_hz
                return
            if utterance is not None:
                self._end(utterance, at)
            utterance = self._begin(rate_hz, True, at)
        _check_same_rate(utterance, rate_hz)
        delay_s = self._delay_of_next(utterance, at)
        kept, self._live_delay_s = self._pace.fit(samples, rate_hz, delay_s, at.now)
        if len(kept):
            self._append(utterance, kept, at)
        if self._awaited is not None and self._live_delay_s >= self._pace.target_s - EARLY_S:
            utterance.configure(self._awaited)
            self._awaited = None

    def end(self, at: Moment) -> None:
        """The open utterance, if any, is complete."""
        utterance = self._open
        if utterance is not None:
            self._end(utterance, at)

    def _check_room(self) -> None:
        if len(self.utterances) >= self._config.max_utterances:
            first = self.utterances[0].unplayed_samples / PLAYOUT_RATE
            tail_s = self._config.tail_frames * FRAME_S
            raise Overloaded(
                f"{len(self.utterances)} utterances are waiting already; try again later", first + tail_s
            )

    def _begin(self, rate_hz: int, live: bool, at: Moment) -> Utterance:
        utterance = self._begin_utterance(self._seen, rate_hz, live, at.now)
        self._seen += 1
        self.utterances.append(utterance)
        return utterance

    def _stalled(self, utterance: Utterance, at: Moment) -> bool:
        """Whether pushed speech has run dry for so long that a microphone may take over."""
        dry = not at.speaking and not utterance.can_plan(utterance.next_play)
        return dry and at.now - utterance.last_arrival >= self._config.push_stall_s

    def _append(self, utterance: Utterance, samples: I16, at: Moment) -> None:
        utterance.speech.push(samples)
        utterance.last_arrival = at.now
        self._note_start(utterance, at)

    def _end(self, utterance: Utterance, at: Moment) -> None:
        if utterance.live:
            utterance.speech.push(self._pace.end())
        utterance.speech.end()
        self._note_start(utterance, at)

    def _note_start(self, utterance: Utterance, at: Moment) -> None:
        """Fix when an utterance may start or resume, as soon as its next hop can be planned."""
        if utterance.start_at is not None or not utterance.can_plan(utterance.next_play):
            return
        if not utterance.live:
            utterance.start_at = at.now + (0.0 if at.holding else self._config.pushed_start_s)
            return
        self._pace.restart()
        if utterance.started:
            backlog_s = utterance.unplayed_samples / PLAYOUT_RATE
            utterance.start_at = at.now + max(0.0, self._pace.target_s - backlog_s)
        else:
            utterance.start_at = utterance.first_arrival + self._pace.target_s

    def _delay_of_next(self, utterance: Utterance, at: Moment) -> float:
        """Seconds until a live sample that comes in now would leave."""
        leaves = at.next_due
        if utterance.start_at is not None and not at.speaking:
            leaves = max(leaves, utterance.start_at)
        elif not utterance.started:
            leaves = max(leaves, utterance.first_arrival + self._pace.target_s)
        return leaves - at.now + self.unplayed_s


def _check_same_rate(utterance: Utterance, rate_hz: int) -> None:
    if rate_hz != utterance.speech.rate_hz:
        raise BadInput(
            f"the utterance has {utterance.speech.rate_hz} Hz, not {rate_hz}: end it first", "bad_rate"
        )
