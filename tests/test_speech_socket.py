"""The speech protocol: what is taken, what is refused with which code, and that nothing else is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mytalk.errors import BadInput, Overloaded
from mytalk.types import I16
from server.speech_socket import MAX_PCM_BYTES, MAX_TEXT_BYTES, SpeechChannel


@dataclass
class Sink:
    """Counts what it is given; full beyond ``room`` samples."""

    room: int = 1_000_000
    samples: list[int] = field(default_factory=list)
    rates: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def push_speech(self, samples: I16, rate_hz: int) -> None:
        if len(self.samples) + len(samples) > self.room:
            raise Overloaded("full", 1.2341)
        self.samples += samples.tolist()
        self.rates.append(rate_hz)

    def end_of_speech(self) -> None:
        self.calls.append("end")

    def interrupt(self) -> None:
        self.calls.append("interrupt")

    def configure(self, knobs: Mapping[str, int]) -> dict[str, int]:
        if knobs.get("hop") == 99:
            raise BadInput("too much", "bad_config")
        self.calls.append("configure")
        return {"hop": 2, "lookahead": 1, "steps": 2, **knobs}

    def queued_s(self) -> float:
        return len(self.samples) / 24_000


def channel(sink: Sink) -> SpeechChannel:
    return SpeechChannel(sink, lambda: 12.5)


def started(sink: Sink) -> SpeechChannel:
    speech = channel(sink)
    assert speech.text('{"type":"start","rate":24000}') == [
        {"type": "buffer", "position": 0, "queued_s": 0.0}
    ]
    return speech


def codes(replies: list[dict[str, object]]) -> list[object]:
    assert all(reply["type"] == "error" and reply["message"] for reply in replies)
    return [reply["code"] for reply in replies]


def test_the_knob_is_turned_and_what_cannot_be_is_refused() -> None:
    sink = Sink()
    speech = channel(sink)
    assert speech.text('{"type":"configure","hop":4,"steps":1}') == [
        {"type": "configured", "hop": 4, "lookahead": 1, "steps": 1}
    ]
    assert codes(speech.text('{"type":"configure","hop":99}')) == ["bad_config"]
    assert codes(speech.text('{"type":"configure","hops":2}')) == ["bad_config"]
    assert sink.calls == ["configure"]


def test_speech_arrives_sample_for_sample() -> None:
    sink = Sink()
    speech = started(sink)
    samples = np.arange(-500, 500, dtype="<i2")
    assert speech.binary(samples[:300].tobytes()) == []
    assert speech.binary(b"") == []
    assert speech.binary(samples[300:].tobytes()) == []
    assert sink.samples == samples.tolist()
    assert sink.rates == [24_000, 24_000]
    assert speech.text('{"type":"end"}') == [{"type": "buffer", "position": 1000, "queued_s": 0.042}]
    speech.text('{"type":"interrupt"}')
    assert sink.calls == ["end", "interrupt"]


def test_progress_is_reported_every_half_second() -> None:
    speech = started(Sink())
    replies = [speech.binary(bytes(2 * 2400)) for _ in range(20)]  # 100 ms each
    positions = [reply["position"] for got in replies for reply in got]
    assert positions == [12_000, 24_000, 36_000, 48_000]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "bad_json"),
        ("", "bad_json"),
        ("[1]", "bad_json"),
        ("[" * 3000, "bad_json"),
        ('{"type":"sing"}', "unknown_type"),
        ('{"rate":24000}', "unknown_type"),
        ('{"type":"start"}', "bad_rate"),
        ('{"type":"start","rate":"24000"}', "bad_rate"),
        ('{"type":"start","rate":true}', "bad_rate"),
        ('{"type":"start","rate":24000.5}', "bad_rate"),
        ('{"type":"start","rate":7999}', "bad_rate"),
        ('{"type":"start","rate":1e9}', "bad_rate"),
        (" " * (MAX_TEXT_BYTES + 1), "too_large"),
    ],
)
def test_a_bad_control_message_costs_nothing_else(message: str, code: str) -> None:
    sink = Sink()
    speech = started(sink)
    speech.binary(b"\1\0\2\0")
    assert codes(speech.text(message)) == [code]
    speech.binary(b"\3\0")
    assert sink.samples == [1, 2, 3]
    assert sink.rates == [24_000, 24_000]


@pytest.mark.parametrize(
    ("message", "code"),
    [(b"\1\0\2", "odd_bytes"), (b"\1", "odd_bytes"), (bytes(MAX_PCM_BYTES + 2), "too_large")],
)
def test_bad_pcm_is_refused_whole(message: bytes, code: str) -> None:
    sink = Sink()
    speech = started(sink)
    assert codes(speech.binary(message)) == [code]
    assert sink.samples == []
    speech.binary(b"\3\0")
    assert sink.samples == [3]


def test_speech_before_start_is_refused() -> None:
    sink = Sink()
    assert codes(channel(sink).binary(b"\1\0")) == ["not_started"]
    assert sink.samples == []


def test_a_full_session_says_where_to_go_on() -> None:
    sink = Sink(room=100)
    speech = started(sink)
    speech.binary(bytes(2 * 80))
    (reply,) = speech.binary(bytes(2 * 30))
    assert (reply["code"], reply["position"], reply["queued_s"]) == ("overloaded", 80, 0.003)
    assert reply["retry_after_s"] == 1.235, "rounded up, in milliseconds"
    sink.room = 200
    assert speech.binary(bytes(2 * 30)) == []
    assert len(sink.samples) == 110


def test_ping_is_echoed_with_the_servers_clock() -> None:
    assert channel(Sink()).text('{"type":"ping","t":7}') == [{"type": "pong", "t": 7, "server_s": 12.5}]


@given(st.lists(st.one_of(st.text(max_size=40), st.binary(max_size=40)), max_size=20))
def test_no_message_raises(messages: list[str | bytes]) -> None:
    speech = started(Sink())
    for message in messages:
        replies = speech.text(message) if isinstance(message, str) else speech.binary(message)
        assert json.dumps(replies)


@given(
    st.dictionaries(
        st.sampled_from(["type", "rate", "t"]), st.one_of(st.none(), st.text(), st.floats(), st.integers())
    )
)
def test_no_json_object_raises(message: dict[str, object]) -> None:
    assert channel(Sink()).text(json.dumps(message))
