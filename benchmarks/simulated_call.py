"""A live call in simulated time: a microphone with a wrong clock, a bad network, a session; what comes out.

Sender → loss, delay, overtaking → ``JitterBuffer`` → ``TalkSession`` on a fake engine. Everything but the
engine, Opus and the passing of time is real. Clicks in the speech tell the delay at the session's output; a
picture knows how loud its sound is, so the click's picture is known too.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from mytalk.audio.conceal import Concealer
from mytalk.audio.jitter import JitterBuffer, Lost, Packet, Pause
from mytalk.clock import FRAME_S, PLAYOUT_RATE
from mytalk.config import SessionConfig
from mytalk.types import I16, AvSlice
from tests.fakes import SessionPump, make_pump, voice  # the same fakes as the tests', run from the repository

SIZE = 960  # samples of a packet
PACKET_S = SIZE / PLAYOUT_RATE
CLICK_EVERY = 50  # packets
CLICK_AT = 480  # samples into its packet
LOUD = 0.9  # of full scale; the speech stays far below
CLICK = np.concatenate([np.full(24, 32_000), np.full(24, -32_000)]).astype(np.int16)
JOB_S = 0.004
CAPTURE_S = (SIZE - CLICK_AT) / PLAYOUT_RATE  # from a click to the end of its packet
DEAD_S = 0.3  # after a click nothing counts as another one
MIN_DELAY_S = 0.1  # no click comes out sooner
FLASH_SLOTS = 5  # a picture that is further from its sound is missing
ON_ITS_WAY_S = 0.5  # a click captured so shortly before a disturbance is still affected
LOOP_S = 20.0  # of speech, said again and again


@dataclass(frozen=True, slots=True)
class Network:
    """ppm: how much faster than ours the sender's clock runs. loss: share of packets.

    jitter_s: each packet is late by 0..jitter_s, and so overtakes others.
    stall_every_s: every so often (0: never) everything is kept for ``stall_s`` and delivered at once;
        half way to the next time the sender restarts, and after a quarter ten packets in a row are lost.
    """

    ppm: float = 0.0
    loss: float = 0.0
    jitter_s: float = 0.0
    stall_every_s: float = 0.0
    stall_s: float = 0.4
    seed: int = 1


@dataclass(slots=True)
class Report:
    """times_s: when clicks were captured, simulated seconds. delays_s: from there to leaving the session.

    skew_s: how much later than its click a flash left, 0 when they left together.
    disturbed_s: when something happened that the delay may need seconds to recover from.
    """

    times_s: list[float] = field(default_factory=list)
    delays_s: list[float] = field(default_factory=list)
    skew_s: list[float] = field(default_factory=list)
    disturbed_s: list[float] = field(default_factory=list)
    unseen: int = 0  # clicks without a picture
    disturbances: int = 0
    starved: int = 0
    sent: int = 0

    def settled(self, after_s: float) -> list[float]:
        """Delays of the clicks captured at least so long after a disturbance and well before the next."""
        moments = np.array([0.0, *self.disturbed_s, np.inf])
        found = np.searchsorted(moments, self.times_s, side="right")
        return [
            delay
            for delay, at, i in zip(self.delays_s, self.times_s, found, strict=True)
            if at - moments[i - 1] >= after_s and moments[i] - at > ON_ITS_WAY_S
        ]

    def forget(self) -> None:
        """Forget what was seen, but not the counters or the last disturbances."""
        for seen in (self.times_s, self.delays_s, self.skew_s):
            seen.clear()
        del self.disturbed_s[:-4]
        self.unseen = 0


class SimulatedCall:
    """``run`` goes on by some seconds of simulated time; ``report`` has what was seen so far."""

    def __init__(self, network: Network, config: SessionConfig | None = None) -> None:
        self.network = network
        self.report = Report()
        self.pump: SessionPump = make_pump(config, job_s=JOB_S)
        self.buffer = JitterBuffer()
        self._concealer = Concealer()
        self._speech = voice(LOOP_S)
        self._rng = random.Random(network.seed)
        self._start_s = self.pump.clock.now
        self._flying: list[tuple[float, int, Packet]] = []
        self._expected: deque[float] = deque()  # capture times of clicks on their way
        self._clicked_s = -1.0
        self._flashing = False
        self._click_slots: deque[int] = deque()
        self._flash_slots: deque[int] = deque()
        self._number = 0
        self._source = 1
        self._held_until_s = 0.0
        self._burst = 0
        self.pump.before_slot = self._before

    @property
    def now(self) -> float:
        """Simulated seconds since the start."""
        return self.pump.clock.now - self._start_s

    def run(self, seconds: float) -> Report:
        """Go on; what the pump collected is looked at and forgotten, so that memory stays flat."""
        for _ in range(round(seconds / FRAME_S)):
            for piece in self.pump.step():
                self._watch(piece)
            self.pump.slices.clear()
            self.pump.frames.clear()
            self.report.starved += sum(e.kind == "starved" for e in self.pump.session.events())
        return self.report

    # the sender and the network

    def _capture_s(self, number: int, sample: int) -> float:
        return self._start_s + (number * SIZE + sample) / (PLAYOUT_RATE * (1 + self.network.ppm * 1e-6))

    def _send(self, until_s: float) -> None:
        while (ready_s := self._capture_s(self._number, SIZE)) <= until_s:
            number, self._number = self._number, self._number + 1
            self.report.sent += 1
            self._disturb(number, ready_s)
            if number % CLICK_EVERY == 0:
                self._expected.append(self._capture_s(number, CLICK_AT) - self._start_s)
            if self._burst or self._rng.random() < self.network.loss:
                self._burst = max(0, self._burst - 1)
                continue
            at_s = max(ready_s + self._rng.uniform(0, self.network.jitter_s), self._held_until_s)
            packet = Packet(self._source, number & 0xFFFF, number * SIZE & 0xFFFFFFFF, SIZE, b"%d" % number)
            heapq.heappush(self._flying, (at_s, number, packet))

    def _disturb(self, number: int, ready_s: float) -> None:
        every = round(self.network.stall_every_s / PACKET_S)
        if not every or number < every:
            return
        phase, quarter = number % every, every // 4
        if phase == 0:
            self._held_until_s = ready_s + self.network.stall_s
        elif phase == quarter:
            self._burst = 10
        elif phase == 2 * quarter:
            self._source += 1
        else:
            return
        self.report.disturbed_s.append(ready_s - self._start_s)
        self.report.disturbances += 1

    def _sound(self, packet: Packet) -> I16:
        number = int(packet.payload)
        first = number * SIZE % (len(self._speech) - SIZE + 1)
        samples = self._speech[first : first + SIZE]
        if number % CLICK_EVERY == 0:
            samples = samples.copy()
            samples[CLICK_AT : CLICK_AT + len(CLICK)] = CLICK
        return samples

    # our side

    def _before(self, due_s: float) -> None:
        """Everything that the session hears before a slot, each at its own time."""
        self._send(due_s)
        while True:
            packet_s = self._flying[0][0] if self._flying else float("inf")
            timer_s = self.buffer.next_due()
            at_s = min(packet_s, float("inf") if timer_s is None else timer_s)
            if at_s > due_s:
                return
            at_s = max(at_s, self.pump.clock.now)
            self.pump.work(at_s)
            self.pump.clock.now = at_s
            if packet_s <= at_s:
                self.buffer.add(heapq.heappop(self._flying)[2], at_s)
            self._hear(at_s)

    def _hear(self, now: float) -> None:
        for piece in self.buffer.take(now):
            if isinstance(piece, Lost):
                sound = self._concealer.conceal(piece.samples)
            elif isinstance(piece, Pause):
                sound = self._concealer.push(np.zeros(piece.samples, np.int16))
            else:
                sound = self._concealer.push(self._sound(piece))
            self.pump.session.receive_speech(sound, PLAYOUT_RATE, now=now, live=True)

    def _watch(self, piece: AvSlice) -> None:
        loud = np.flatnonzero(np.abs(piece.samples.astype(np.int32)) >= LOUD * 32767)
        left_s = piece.slot * FRAME_S + (int(loud[0]) / PLAYOUT_RATE if len(loud) else 0.0)
        # what was made up for a lost packet may repeat a click
        if len(loud) and left_s - self._clicked_s > DEAD_S:
            self._clicked_s = left_s
            self._clicked(left_s)
            self._click_slots.append(piece.slot)
        flash = piece.picture is not None and piece.picture[0, 0, 2] >= int(LOUD * 255)
        if flash and not self._flashing:
            self._flash_slots.append(piece.slot)
        self._flashing = flash
        self._pair(piece.slot)

    def _clicked(self, left_s: float) -> None:
        while len(self._expected) > 1 and left_s - self._expected[1] > MIN_DELAY_S:
            self._expected.popleft()  # that click was lost
        if self._expected:
            captured_s = self._expected.popleft()
            self.report.times_s.append(captured_s)
            self.report.delays_s.append(left_s - captured_s)

    def _pair(self, slot: int) -> None:
        """Match every click, once its flash must have been shown, with the nearest flash."""
        while self._click_slots and slot - self._click_slots[0] > FLASH_SLOTS:
            click = self._click_slots.popleft()
            apart = [f - click for f in self._flash_slots if abs(f - click) <= FLASH_SLOTS]
            if apart:
                self.report.skew_s.append(min(apart, key=abs) * FRAME_S)
            else:
                self.report.unseen += 1
        while self._flash_slots and slot - self._flash_slots[0] > 3 * FLASH_SLOTS:
            self._flash_slots.popleft()
