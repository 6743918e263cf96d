"""Keeps a live microphone's delay at its target, for its clock is not ours and its packets come unevenly."""

from __future__ import annotations

from collections import deque

import numpy as np

from mytalk.audio.jitter import ArrivalJitter
from mytalk.audio.readiness import Readiness
from mytalk.audio.stretch import Stretcher, shorten
from mytalk.clock import FRAME_S
from mytalk.config import SessionConfig
from mytalk.types import I16

MAX_SPEED = 0.005  # by so much a live voice may run faster or slower: 9 cents, which nobody hears
SETTLE_S = 5.0  # a deviation of 1 s would be taken up in so long, were it not for MAX_SPEED
REACHED_S = 0.003  # the delay is back at its target
EARLY_S = 0.01  # sound that leaves earlier than wanted by so much lacks time for its motion
WINDOW_S = 1.0  # the promptest packet of so long stands for all
CUT_AFTER_S = 1.0  # sound that is too late may wait so long for a quiet moment, then periods are cut out
PIECE_S = 0.01  # quiet pieces that are dropped
BLOCK_S = 0.02  # sound that a period is cut out of
MIN_JITTER_S, MAX_JITTER_S = 0.02, 0.2  # allowed for in the target
COMPUTE_S = FRAME_S  # likewise, for motion and the first picture of a hop; more where more is measured
MAX_READY_S = 0.15  # from a sample that came at its time to its picture, beyond hop and lookahead


class LivePace:
    """What becomes of live sound as it comes: it passes, or is stretched, shortened or dropped.

    The *deviation* is the delay of the promptest packet of the last second, minus the target. From
    ``-EARLY_S`` to ``live_drift_s`` nothing is done. Beyond, sound is resampled until the deviation is gone.
    Sound that is too late by ``live_slack_s`` loses quiet pieces and then pitch periods, which takes a second
    or two; what would be later than ``live_backlog_s`` is dropped.
    """

    def __init__(self, config: SessionConfig, needed_s: float) -> None:
        """needed_s: delay that hop and lookahead take, compute not included."""
        self.dropped_s = 0.0
        self.speed = 1.0  # input samples an output sample takes
        self._config = config
        self._needed_s = needed_s
        self._jitter = ArrivalJitter(MIN_JITTER_S, MAX_JITTER_S)
        self._readiness = Readiness(MAX_READY_S)
        self._stretcher = Stretcher()
        self._received_s = 0.0
        self._delays: deque[tuple[float, float]] = deque()  # now, delay: the window's maxima, decreasing
        self._since_s: float | None = None  # when the first of them came
        self._draining_s: float | None = None  # how much sound came since it is too late; None: it is not

    def need(self, needed_s: float) -> None:
        """Hop and lookahead take another delay from now on; it is reached as drift is taken up."""
        self._needed_s = needed_s

    @property
    def target_s(self) -> float:
        """The delay to keep: what is needed, jitter and compute; at least the configured one."""
        allowed_s = max(self._jitter.depth_s + COMPUTE_S, self._readiness.allowance_s)
        return max(self._config.live_delay_s, self._needed_s + allowed_s)

    def pictured(self, slack_s: float) -> None:
        """A frame left whose picture was ready so long before (negative: it was not)."""
        if self._delays:
            self._readiness.note(self._delays[0][1] - self._needed_s - slack_s)

    def fit(self, samples: I16, rate_hz: int, delay_s: float, now: float) -> tuple[I16, float]:
        """Take int16 [n] that just came; returns what is left of it, and the delay of what comes next.

        delay_s: when its first sample would leave, from now on.
        """
        self._received_s += len(samples) / rate_hz
        self._jitter.note(self._received_s, now)
        self._watch(delay_s, now)
        kept = self._stretcher.push(samples, self.speed)
        block, blocks = max(1, round(BLOCK_S * rate_hz)), []
        for first in range(0, len(kept), block):
            part = self._drained(kept[first : first + block], rate_hz, delay_s)
            delay_s += len(part) / rate_hz
            blocks.append(part)
        return np.concatenate([np.zeros(0, np.int16), *blocks]), delay_s

    def end(self) -> I16:
        """The utterance ends; returns the few samples that waited."""
        self.restart()
        return self._stretcher.flush()

    def restart(self) -> None:
        """Playout starts anew, so the delays so far mean nothing."""
        self._delays.clear()
        self._since_s, self._draining_s, self.speed = None, None, 1.0

    def _watch(self, delay_s: float, now: float) -> None:
        """Choose the speed."""
        while self._delays and self._delays[-1][1] <= delay_s:
            self._delays.pop()
        self._delays.append((now, delay_s))
        while self._delays[0][0] < now - WINDOW_S:
            self._delays.popleft()
        self._since_s = now if self._since_s is None else self._since_s
        if now - self._since_s < WINDOW_S:
            return
        deviation_s = self._delays[0][1] - self.target_s
        if self.speed != 1.0 and abs(deviation_s) <= REACHED_S:
            self.speed = 1.0
        elif self.speed != 1.0 or not -EARLY_S <= deviation_s <= self._config.live_drift_s:
            self.speed = 1.0 + min(max(deviation_s / SETTLE_S, -MAX_SPEED), MAX_SPEED)

    def _drained(self, block: I16, rate_hz: int, delay_s: float) -> I16:
        """A block, or less of it while sound is too late."""
        config, length_s = self._config, len(block) / rate_hz
        late_s = delay_s - self.target_s
        if late_s > config.live_slack_s:
            self._draining_s = self._draining_s or 0.0
        elif late_s <= 0.0:
            self._draining_s = None
        if delay_s > config.live_backlog_s:
            kept = block[:0]
        elif self._draining_s is None:
            return block
        else:
            kept = _without_quiet(block, round(PIECE_S * rate_hz), config.quiet_peak)
            self._draining_s += length_s
            if len(kept) == len(block) and self._draining_s > CUT_AFTER_S:
                kept = shorten(block, anyway=late_s > 2 * config.live_slack_s, rate_hz=rate_hz)
        self.dropped_s += length_s - len(kept) / rate_hz
        return kept


def _without_quiet(block: I16, size: int, quiet_peak: float) -> I16:
    pieces = [block[first : first + size] for first in range(0, len(block), size)]
    loud = [p for p in pieces if int(np.abs(p.astype(np.int32)).max()) > quiet_peak * 32768]
    return np.concatenate([block[:0], *loud])
