"""The measured allowance of live speech: up at once, down after a while, within bounds."""

from __future__ import annotations

import numpy as np
import pytest

from mytalk.audio.readiness import Readiness
from mytalk.config import SessionConfig
from tests.fakes import make_pump, voice


def test_it_follows_the_slow_pictures_of_ten_seconds() -> None:
    ready = Readiness(0.35)
    for _ in range(Readiness.ENOUGH - 1):
        ready.note(0.01)
        assert ready.allowance_s == 0.0, "too little is known"
    for _ in range(Readiness.RENEW_EVERY):
        ready.note(0.01)
    assert ready.allowance_s == pytest.approx(0.01 + Readiness.MARGIN_S)
    for n in range(250):
        ready.note(0.08 if n % 10 == 0 else 0.01)
    assert ready.allowance_s == pytest.approx(0.08 + Readiness.MARGIN_S), "one in ten is many"
    for n in range(500):
        ready.note(5.0 if n % 3 == 0 else 0.02)
    assert ready.allowance_s == pytest.approx(0.02 + Readiness.MARGIN_S), "what stood still teaches nothing"
    for _ in range(300):
        ready.note(-1.0)
    assert ready.allowance_s == 0.0


def call(job_s: float) -> tuple[int, float]:
    """A minute's call at a machine with such jobs: late pictures in its second half, the delay at its end."""
    pump = make_pump(SessionConfig(live_hop_frames=2), job_s=job_s)
    speech = np.tile(voice(2.0)[:48_000], 60)
    late = []
    for packet in np.split(speech, range(1920, len(speech), 1920)):
        pump.session.receive_speech(packet, 48_000, now=pump.clock.now, live=True)
        pump.step()
        late.append(pump.session.stats().late)
    delay_s = pump.session.stats().live_delay_s
    assert delay_s is not None
    return late[-1] - late[len(late) // 2], delay_s


def test_a_slow_machine_gets_more_delay_and_a_fast_one_keeps_the_shortest() -> None:
    late, fast_s = call(0.004)
    assert late == 0
    assert fast_s < 0.25
    late, slow_s = call(0.034)  # two jobs come before a hop's first pictures, and 80 ms later the next ones
    assert late == 0
    assert fast_s + 0.02 < slow_s < fast_s + 0.1
