"""The receive buffer: whatever the network does, one gapless line comes out, and no delay stays behind."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mytalk.audio.jitter import ArrivalJitter, JitterBuffer, JitterConfig, Lost, Packet, Pause, Piece

SIZE = 960
STEP_S = 0.02


def packet(number: int, timestamp: int | None = None, source: int = 1, **more: object) -> Packet:
    """Packet ``number`` of an even stream; numbers and time stamps wrap."""
    at = number * SIZE if timestamp is None else timestamp
    fields = {"samples": SIZE, "payload": str(number).encode()} | more
    return Packet(source, number & 0xFFFF, at & 0xFFFFFFFF, **fields)  # type: ignore[arg-type]


def shown(pieces: list[Piece]) -> list[object]:
    """Packets by payload, made-up sound as ("lost", samples)."""
    names = {Lost: "lost", Pause: "pause"}
    return [int(p.payload) if isinstance(p, Packet) else (names[type(p)], p.samples) for p in pieces]


@dataclass
class Network:
    """Packets at times of arrival; the buffer is asked whenever it wants to be."""

    arrivals: list[tuple[float, Packet]]
    buffer: JitterBuffer = field(default_factory=JitterBuffer)
    out: list[tuple[float, Piece]] = field(default_factory=list)

    def run(self, until: float | None = None) -> list[object]:
        for at, came in sorted(self.arrivals, key=lambda arrival: arrival[0]):
            self.wait(at)
            self.buffer.add(came, at)
            self.take(at)
        self.wait(self.arrivals[-1][0] + 5.0 if until is None else until)
        return shown([piece for _, piece in self.out])

    def wait(self, until: float) -> None:
        while (due := self.buffer.next_due()) is not None and due <= until:
            before = len(self.out)
            self.take(due)
            assert len(self.out) > before, "what was due came"

    def take(self, now: float) -> None:
        self.out += [(now, piece) for piece in self.buffer.take(now)]
        assert self.buffer.held <= 65


def stream(first: int, count: int, at: float = 100.0) -> list[tuple[float, Packet]]:
    return [(at + i * STEP_S, packet(first + i)) for i in range(count)]


def test_in_order_every_packet_leaves_as_it_comes_across_both_wrap_arounds() -> None:
    # the number wraps after 5 packets, and with it, at this start, the time stamp
    first = (1 << 32) // SIZE // 65536 * 65536 + 65531
    for start in (first, (1 << 32) // SIZE - 5):
        network = Network(stream(start, 20))
        assert network.run() == list(range(start, start + 20))
        assert [at for at, _ in network.out] == [at for at, _ in network.arrivals]
        assert network.buffer.stats.restarts == network.buffer.stats.repeated == 0


def test_a_lost_packet_is_made_up_at_once_and_nothing_is_late_afterwards() -> None:
    arrivals = stream(0, 40)
    del arrivals[10]
    network = Network(arrivals)
    assert network.run() == [*range(10), ("lost", SIZE), *range(11, 40)]
    assert [at for at, piece in network.out if isinstance(piece, Packet)] == [at for at, _ in arrivals]
    assert network.buffer.stats.lost == 1
    assert network.buffer.stats.concealed_s == pytest.approx(0.02)


def test_a_network_that_reorders_is_waited_for_and_a_lost_packet_then_costs_no_more() -> None:
    arrivals = stream(0, 700)
    for i in range(5, 500, 8):  # every eighth packet is 35 ms late
        arrivals[i] = (arrivals[i][0] + 0.035, arrivals[i][1])
    del arrivals[600]
    network = Network(arrivals)
    out = network.run()
    learning = out.index(101)
    assert ("lost", SIZE) in out[:learning], "it cannot know before it has seen it"
    assert out[learning:] == [*range(101, 600), ("lost", SIZE), *range(601, 700)]
    delays = {
        int(p.payload): at - 100.0 - int(p.payload) * STEP_S for at, p in network.out if isinstance(p, Packet)
    }
    assert delays[601] <= 0.055
    assert max(delays[n] for n in range(605, 700)) < 1e-9, "no delay stays behind"
    assert network.buffer.stats.reordered > 50


def test_packets_that_come_after_they_were_given_up_or_twice_are_dropped() -> None:
    came = [(0.0, 0), (0.02, 2), (0.03, 1), (0.03, 2), (0.04, 3), (0.04, 1)]
    network = Network([(at, packet(number)) for at, number in came])
    assert network.run() == [0, ("lost", SIZE), 2, 3]
    assert (network.buffer.stats.late, network.buffer.stats.repeated) == (1, 2)


def test_a_duplicate_behind_a_hole_is_dropped() -> None:
    buffer = JitterBuffer(JitterConfig(min_depth_s=0.06))
    for number in (0, 2, 2):
        buffer.add(packet(number), 1.0)
    assert shown(buffer.take(1.0)) == [0]
    assert (buffer.held, buffer.stats.repeated) == (1, 1)


def test_a_burst_of_loss_is_one_hole_and_a_long_one_is_filled_to_the_bound_only() -> None:
    arrivals = stream(0, 300)
    network = Network(arrivals[:10] + arrivals[13:20] + arrivals[220:])
    assert network.run() == [
        *range(10),
        ("lost", 3 * SIZE),
        *range(13, 20),
        ("lost", 48_000),
        *range(220, 300),
    ]


def test_silence_that_was_not_sent_is_filled_by_time_stamps() -> None:
    later = [(100.2 + i * STEP_S, packet(10 + i, (14 + i) * SIZE)) for i in range(5)]
    assert Network(stream(0, 10) + later).run() == [*range(10), ("pause", 4 * SIZE), *range(10, 15)]


def test_an_announced_pause_is_filled_while_it_lasts() -> None:
    # 400 ms without packets, as Opus DTX does, and then speech again
    rest = (100.2, packet(10, resting=True))
    later = [(100.6 + i * STEP_S, packet(11 + i, (30 + i) * SIZE)) for i in range(5)]
    network = Network([*stream(0, 10), rest, *later])
    out = network.run()
    filled = [at for at, piece in network.out if isinstance(piece, Pause)]
    assert sum(p.samples for _, p in network.out) == 35 * SIZE, "gapless"
    assert out[-5:] == [11, 12, 13, 14, 15]
    assert max(b - a for a, b in itertools.pairwise(filled)) < 0.021, "in real time"
    assert filled[0] - 100.2 < 0.05


def test_an_announced_pause_without_end_stops_being_filled() -> None:
    network = Network([*stream(0, 3), (100.06, packet(3, resting=True))])
    network.run(until=110.0)
    assert sum(p.samples for _, p in network.out if isinstance(p, Pause)) == 48_000
    assert network.buffer.next_due() is None


def test_padding_leaves_no_hole() -> None:
    arrivals = [*stream(0, 3), (100.06, packet(3, 2 * SIZE, samples=0))]
    arrivals += [(100.08 + i * STEP_S, packet(4 + i, (3 + i) * SIZE)) for i in range(3)]
    assert Network(arrivals).run() == [0, 1, 2, 4, 5, 6]


def test_another_source_takes_over_at_once_and_what_waited_leaves_first() -> None:
    buffer = JitterBuffer(JitterConfig(min_depth_s=0.1))
    for number in (0, 2):
        buffer.add(packet(number), 1.0)
    buffer.add(packet(50_000, 123, source=2), 1.01)
    assert shown(buffer.take(1.01)) == [0, ("lost", SIZE), 2, 50_000]
    assert buffer.stats.restarts == 1


def test_one_stray_number_is_ignored_and_two_are_a_restart() -> None:
    network = Network([*stream(0, 5), (100.1, packet(20000)), *stream(5, 5, 100.1)])
    assert network.run() == list(range(10))
    network = Network(
        stream(0, 5) + [(101.0 + i * STEP_S, packet(20_000 + i, 77 + i * SIZE)) for i in range(5)]
    )
    assert network.run() == [*range(5), 20_001, 20_002, 20_003, 20_004]
    assert network.buffer.stats.restarts == 1


def test_a_time_stamp_that_jumps_back_is_followed_without_a_gap() -> None:
    later = [(100.2 + i * STEP_S, packet(10 + i, i * SIZE)) for i in range(5)]
    assert Network(stream(0, 10) + later).run() == list(range(15))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.3), st.floats(0.0, 0.15), st.floats(0.0, 0.1))
def test_any_network(seed: int, loss: float, jitter_s: float, twice: float) -> None:
    """Order and length are kept, waiting is bounded, and everything that came in time comes out."""
    rng = random.Random(seed)
    first, config = rng.randrange(65536), JitterConfig()
    arrivals = []
    for at, came in stream(first, 300):
        for _ in range(2 if rng.random() < twice else 1):
            if rng.random() >= loss:
                arrivals.append((at + rng.uniform(0, jitter_s), came))
    if not arrivals:
        return
    arrivals.sort(key=lambda arrival: arrival[0])
    network = Network(arrivals)
    network.run()
    numbers = [int(p.payload) for _, p in network.out if isinstance(p, Packet)]
    assert numbers == sorted(set(numbers))
    covered = sum(p.samples for _, p in network.out)
    assert covered == (numbers[-1] - numbers[0] + 1) * SIZE, "gapless, nothing twice"
    here = {p.number for _, p in arrivals}
    stats = network.buffer.stats
    assert len(here) == len(numbers) + stats.late + (here_before(arrivals, numbers[0]))
    for at, p in network.out:
        if isinstance(p, Packet):
            came = min(t for t, q in arrivals if q.number == p.number)
            assert at - came <= config.max_depth_s + 1e-9


def here_before(arrivals: list[tuple[float, Packet]], first: int) -> int:
    """Packets from before the first one that came: there was no line yet."""
    numbers = {int(p.payload) for _, p in arrivals}
    return sum(number < first for number in numbers)


def test_the_depth_follows_the_jitter_both_ways_within_its_bounds() -> None:
    rng = random.Random(3)
    jitter = ArrivalJitter(0.02, 0.12)
    depths = {}
    for i in range(3_000):
        spread = 0.05 if 500 <= i < 1_000 else 0.4 if 1_500 <= i < 2_000 else 0.0
        at = i * STEP_S
        jitter.note(at, at + rng.uniform(0, spread))
        depths[i] = jitter.depth_s
    assert depths[499] == 0.02
    assert 0.055 < depths[999] < 0.075
    assert depths[1499 + 5] == pytest.approx(0.02, abs=0.003), "ten seconds later it is forgotten"
    assert depths[1999] == 0.12
    assert depths[2999] == 0.02


def test_a_pause_is_no_jitter_and_a_wrong_clock_hardly_any() -> None:
    jitter = ArrivalJitter(0.02, 0.12)
    for i in range(2_000):
        late = jitter.note(i * STEP_S * 1.0005, i * STEP_S + (3.0 if i >= 1_000 else 0.0))
    assert late < 0.006
    assert jitter.depth_s < 0.027
