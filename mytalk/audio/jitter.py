"""Numbered, time-stamped packets that come late, twice, out of order or never → one gapless line (sans I/O).

What is here in order leaves at once: the delay that evens out the network is the session's, which can plan
with speech that waits. Only behind a hole do packets wait, no longer than ``depth_s``, for a packet that may
only be late; then the hole is given up, and what follows leaves together, so no delay stays behind.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mytalk.clock import PLAYOUT_RATE

FAR_PACKETS = 500  # a number further away than this, twice in a row, is a restart and no loss
FAR_S = 10.0  # and so is a time stamp
FILL_SAMPLES = 960  # an announced pause is filled in steps of 20 ms
FORGIVEN = 128  # holes that are remembered, to tell a late packet from a repeated one


@dataclass(frozen=True, slots=True)
class JitterConfig:
    """Bounds of a receive buffer.

    min_depth_s, max_depth_s: how late a packet may come and still be waited for; between the two it follows
        what the network does. max_held: packets that wait behind a hole; beyond it the hole is given up.
    max_gap_s: loss and pauses are filled no further than this.
    """

    min_depth_s: float = 0.02
    max_depth_s: float = 0.12
    max_held: int = 64
    max_gap_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Packet:
    """number: modulo 2¹⁶. timestamp: of its first sample, modulo 2³². samples: what it holds, 48 kHz.

    A packet of no samples (padding) only keeps its number. resting: the sender announces a pause with it
    (DTX), in which silence is due although nothing comes.
    """

    source: int
    number: int
    timestamp: int
    samples: int
    payload: bytes
    resting: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """So many 48 kHz samples never came, or too late: they have to be made up."""

    samples: int


@dataclass(frozen=True, slots=True)
class Pause:
    """So many 48 kHz samples were not sent: silence."""

    samples: int


Piece = Packet | Lost | Pause


@dataclass(slots=True)
class JitterStats:
    """Packets: received (all), lost (given up), late (came after that), repeated, reordered (but in time).

    restarts: the sender began again. concealed_s, paused_s: sound that was made up, silence that was put in.
    """

    received: int = 0
    lost: int = 0
    late: int = 0
    repeated: int = 0
    reordered: int = 0
    restarts: int = 0
    concealed_s: float = 0.0
    paused_s: float = 0.0


class ArrivalJitter:
    """How late things come, against the promptest of the last seconds; ``depth_s`` is what most stay within.

    A position on the sender's clock and the time at which it was here are all it takes. The window is short,
    so a sender's clock that runs wrong by 0.05 % adds 5 ms at most.
    """

    WINDOW_S = 10.0
    MOST = 1_024  # arrivals that are looked back at
    SHARE = 0.95
    MARGIN_S = 0.02
    PAUSE_S = 1.0  # so late is no jitter: the sender paused
    RENEW_S = 0.5  # between two looks at all of the window

    def __init__(self, low_s: float, high_s: float) -> None:
        """``depth_s`` stays within low_s..high_s and starts at the low end."""
        self.depth_s = low_s
        self._low_s, self._high_s = low_s, high_s
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=self.MOST)  # now, transit
        self._least: deque[tuple[float, float]] = deque()  # the window's minima, increasing
        self._renew_at = 0.0

    def note(self, position_s: float, now: float) -> float:
        """Something of this position came; returns how late it is, in seconds."""
        transit = now - position_s
        if self._least and transit - self._least[0][1] > self.PAUSE_S:
            self._arrivals.clear()
            self._least.clear()
        while self._least and self._least[-1][1] >= transit:
            self._least.pop()
        self._least.append((now, transit))
        self._arrivals.append((now, transit))
        oldest = max(now - self.WINDOW_S, self._arrivals[0][0])
        while self._least[0][0] < oldest:
            self._least.popleft()
        if now >= self._renew_at:
            self._renew(now)
        return transit - self._least[0][1]

    def _renew(self, now: float) -> None:
        self._renew_at = now + self.RENEW_S
        while self._arrivals[0][0] < now - self.WINDOW_S:
            self._arrivals.popleft()
        transits = sorted(transit for _, transit in self._arrivals)
        spread_s = transits[int(self.SHARE * (len(transits) - 1))] - transits[0]
        self.depth_s = min(max(spread_s + self.MARGIN_S, self._low_s), self._high_s)

    def restart(self) -> None:
        """The sender's positions begin again; the depth stays."""
        self._arrivals.clear()
        self._least.clear()


class JitterBuffer:
    """One stream of packets; ``add`` what comes, ``take`` what is due, at ``next_due`` at the latest."""

    def __init__(self, config: JitterConfig | None = None) -> None:
        self.stats = JitterStats()
        self._config = config or JitterConfig()
        self._jitter = ArrivalJitter(self._config.min_depth_s, self._config.max_depth_s)
        self._held: dict[int, tuple[Packet, float]] = {}  # by endless number, with the time of arrival
        self._flushed: list[Piece] = []
        self._source: int | None = None
        self._next = 0  # endless number of the packet that leaves next
        self._next_timestamp = 0  # modulo 2³²: up to here the line is complete
        self._position = 0  # endless time stamp of the newest packet
        self._stray: int | None = None
        self._given_up: deque[int] = deque(maxlen=FORGIVEN)
        self._rest_due_s: float | None = None  # when the next piece of an announced pause is due
        self._rested = 0

    @property
    def depth_s(self) -> float:
        """How late a packet may come at present and still be waited for."""
        return self._jitter.depth_s

    @property
    def held(self) -> int:
        """Packets that wait behind a hole."""
        return len(self._held)

    def add(self, packet: Packet, now: float) -> None:
        """Take a packet as it comes; ``now``: monotonic seconds."""
        self.stats.received += 1
        if packet.source != self._source:
            self._restart(packet)
        step = _signed(packet.number - self._next, 16)
        if abs(step) > FAR_PACKETS:
            if self._stray is None or packet.number != (self._stray + 1) & 0xFFFF:
                self._stray = packet.number
                return
            self._restart(packet)
            step = 0
        self._stray = None
        number = self._next + step
        if number in self._held or (step < 0 and number not in self._given_up):
            self.stats.repeated += 1
            return
        self._note(packet, now)
        if step < 0:
            self._given_up.remove(number)
            self.stats.late += 1
            return
        self.stats.reordered += any(number < other for other in self._held)
        self._held[number] = (packet, now)

    def take(self, now: float) -> list[Piece]:
        """Everything that is due by now, in order and without gaps."""
        pieces, self._flushed = self._flushed, []
        while self._held:
            if self._next in self._held:
                pieces += self._leave(now)
            elif len(self._held) > self._config.max_held or now >= self._deadline():
                pieces += self._give_up()
            else:
                break
        return pieces + self._rest(now)

    def next_due(self) -> float | None:
        """When something leaves although nothing comes; None: not before the next packet."""
        if self._held:
            return self._deadline()
        return self._rest_due_s

    def _note(self, packet: Packet, now: float) -> None:
        """Learn from an arrival how much the network delays."""
        moved = _signed(packet.timestamp - self._position, 32)
        if abs(moved) > FAR_S * PLAYOUT_RATE:
            self._jitter.restart()
        self._position += moved
        self._jitter.note(self._position / PLAYOUT_RATE, now)

    def _restart(self, packet: Packet) -> None:
        """Begin anew with this packet; what waited leaves first."""
        while self._held:
            self._flushed += self._leave(None) if self._next in self._held else self._give_up()
        self.stats.restarts += self._source is not None
        self._source, self._stray = packet.source, None
        self._next, self._next_timestamp, self._position = packet.number, packet.timestamp, packet.timestamp
        self._rest_due_s = None
        self._given_up.clear()
        self._jitter.restart()

    def _first_held(self) -> tuple[int, Packet]:
        number = min(self._held)
        return number, self._held[number][0]

    def _deadline(self) -> float:
        """When the hole in front is given up: its first packet is then as late as any that is waited for."""
        revealed_s = min(arrival for _, arrival in self._held.values())
        missing_s = self._gap(self._first_held()[1]) / PLAYOUT_RATE
        return revealed_s + max(0.0, self.depth_s - missing_s)

    def _gap(self, packet: Packet) -> int:
        """48 kHz samples between the end of the line and a packet, at most the bound; 0 for an overlap."""
        gap = _signed(packet.timestamp - self._next_timestamp, 32)
        return min(max(0, gap), round(self._config.max_gap_s * PLAYOUT_RATE))

    def _give_up(self) -> list[Piece]:
        number, packet = self._first_held()
        gap = self._gap(packet)
        self.stats.lost += number - self._next
        self._given_up.extend(range(max(self._next, number - FORGIVEN), number))
        self._next, self._next_timestamp = number, packet.timestamp
        self.stats.concealed_s += gap / PLAYOUT_RATE
        return [Lost(gap)] if gap else []

    def _leave(self, now: float | None) -> list[Piece]:
        """The packet that is next, with the silence that its sender left out before it."""
        packet, _ = self._held.pop(self._next)
        self._next += 1
        if packet.samples == 0:
            return []
        gap = self._gap(packet)
        self.stats.paused_s += gap / PLAYOUT_RATE
        self._next_timestamp = (packet.timestamp + packet.samples) & 0xFFFFFFFF
        rests = packet.resting and now is not None
        self._rest_due_s = now + packet.samples / PLAYOUT_RATE + self.depth_s if rests and now else None
        self._rested = 0
        return [Pause(gap), packet] if gap else [packet]

    def _rest(self, now: float) -> list[Piece]:
        """Silence of an announced pause, as time goes by; not for ever: the sender may be gone."""
        pieces: list[Piece] = []
        while self._rest_due_s is not None and now >= self._rest_due_s:
            pieces.append(Pause(FILL_SAMPLES))
            self.stats.paused_s += FILL_SAMPLES / PLAYOUT_RATE
            self._rested += FILL_SAMPLES
            self._next_timestamp = (self._next_timestamp + FILL_SAMPLES) & 0xFFFFFFFF
            over = self._rested >= self._config.max_gap_s * PLAYOUT_RATE
            self._rest_due_s = None if over else self._rest_due_s + FILL_SAMPLES / PLAYOUT_RATE
        return pieces


def _signed(difference: int, bits: int) -> int:
    """A difference of numbers modulo 2^bits, as the shorter way round."""
    half = 1 << (bits - 1)
    return (difference + half) % (1 << bits) - half
