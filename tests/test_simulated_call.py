"""A wrong clock, loss, jitter, stalls and restarts for minutes: the delay stays, lips stay with the voice.

``make soak`` runs the same for ten hours.
"""

from __future__ import annotations

from statistics import median

import pytest

from benchmarks.simulated_call import CAPTURE_S, Network, SimulatedCall
from mytalk.clock import FRAME_S
from mytalk.config import SessionConfig


@pytest.mark.parametrize(
    "network",
    [
        Network(ppm=200, loss=0.01, jitter_s=0.05, stall_every_s=40),
        Network(ppm=-200, loss=0.05, jitter_s=0.05, stall_every_s=40, seed=2),
        Network(ppm=500, loss=0.01),
        Network(ppm=-500, loss=0.01),
    ],
    ids=str,
)
def test_the_delay_comes_back_and_the_lips_stay_with_the_voice(network: Network) -> None:
    call = SimulatedCall(network)
    seconds = 170.0 if network.stall_every_s else 120.0
    report = call.run(seconds)
    assert report.sent == pytest.approx(50 * seconds, rel=0.002)
    clicks = seconds - 2
    assert len(report.delays_s) > clicks * (1 - 2 * network.loss) - 4 - 8 * bool(network.stall_every_s)
    settled = report.settled(5.0)[10:]  # jitter is learnt in the first seconds
    assert len(settled) > 50
    # the target is for the arrival of a packet, of which a click lies in the middle
    target = call.pump.session.stats().live.target_s + CAPTURE_S
    assert max(settled) - min(settled) < 0.075, "it stays"
    assert abs(median(settled) - target) < 0.05, "where it should be"
    assert abs(settled[-1] - target) < 0.06, "to the end"
    assert report.starved <= 1.5 * seconds / (network.stall_every_s or 1e9) + 2
    assert report.unseen <= 0.02 * len(report.delays_s)
    apart = [abs(skew) for skew in report.skew_s]
    assert sorted(apart)[int(0.98 * len(apart))] == 0
    assert max(apart) <= 2 * FRAME_S, "a picture that was late when speech came back"


def test_with_a_good_clock_and_network_nothing_is_touched() -> None:
    call = SimulatedCall(Network(), SessionConfig(live_delay_s=0.25))  # longer than what it would learn
    report = call.run(30.0)
    assert len(set(round(d, 6) for d in report.delays_s)) == 1
    stats = call.pump.session.stats()
    assert (stats.dropped_live_s, stats.live.speed, report.starved) == (0, 1.0, 0)
    assert set(report.skew_s) == {0}
