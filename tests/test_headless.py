"""The headless client: its pure parts, and real WebRTC calls against a peer with a known delay and skew."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_peer import Plan, ReferencePeer

from clients.headless import __main__ as command
from clients.headless.call import Call, CallOptions, allow_loopback
from clients.headless.errors import BadArgument, ConnectionLost, Refused
from clients.headless.receive import PromptJitterBuffer, SenderClock
from clients.headless.report import delays, flow, skew
from clients.headless.sources import Microphone, load_speech
from clients.headless.testcard import (
    RATE,
    ClickDetector,
    FlashDetector,
    click_times,
    click_train,
    flashing_tone,
    is_flash,
    pair_events,
    percentiles,
)

ROOT = Path(__file__).resolve().parents[1]
allow_loopback("http://127.0.0.1")


def arguments(url: str, *more: str):
    return command.parser().parse_args(["--url", url, "--json", *more])


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return path


def tone(seconds: float, rate: int = 16_000, level: float = 0.3) -> np.ndarray:
    at = np.arange(round(seconds * rate)) / rate
    return (level * 32767 * np.sin(2 * np.pi * 220 * at)).astype(np.int16)


# the test card


def test_a_click_train_is_found_again_in_any_split() -> None:
    times = click_times(8.0)
    train = click_train(8.0, times)
    assert len(times) >= 6
    for block in (960, 1920, 77_777):
        detector, found = ClickDetector(), []
        for start in range(0, len(train), block):
            found += [(start + offset) / RATE for offset in detector.feed(train[start : start + block])]
        assert np.allclose(found, times, atol=0.001)


def test_click_distances_differ_and_visit_every_phase_of_a_picture() -> None:
    times = np.array(click_times(60.0))
    distances = np.diff(times)
    assert distances.min() > 0.8
    assert len(set(np.round(distances, 3))) > len(distances) // 2
    phases = (times % 0.04) / 0.04
    assert np.histogram(phases, bins=4, range=(0, 1))[0].min() > 0


def test_noise_between_clicks_never_flashes_the_test_card() -> None:
    train = click_train(5.0, [])
    assert np.abs(train.astype(np.int32)).max() < 0.5 * 32767
    assert np.abs(train.astype(np.int32)).mean() > 0.005 * 32767


def test_a_flash_is_a_rising_edge_of_plain_white_at_the_top_left() -> None:
    dark = np.full((512, 512), 90, np.uint8)
    flash = dark.copy()
    flash[:256, :256] = 235
    textured = dark.copy()
    textured[:256, :256] = np.where(np.indices((256, 256)).sum(0) // 16 % 2, 255, 200)
    assert is_flash(flash)
    assert not is_flash(dark)
    assert not is_flash(textured)
    assert not is_flash(np.roll(flash, 256, axis=1))
    detector = FlashDetector()
    assert [detector.feed(p) for p in (dark, flash, flash, dark, flash)] == [False, True, False, False, True]
    assert detector.white
    assert not FlashDetector().feed(flash), "a picture that starts white is a white wall"
    assert np.abs(flashing_tone(0.5)).max() > 0.7 * 32767, "each picture of it flashes"


@settings(max_examples=60, deadline=None)
@given(
    delay=st.floats(0.05, 4.0),
    jitter=st.lists(st.floats(0.0, 0.04), min_size=12, max_size=12),
    missed=st.sets(st.integers(0, 11), max_size=3),
)
def test_pairs_are_right_for_any_constant_delay(delay: float, jitter: list[float], missed: set[int]) -> None:
    causes = click_times(12.6)[:12]
    kept = [i for i in range(len(causes)) if i not in missed]
    effects = [causes[i] + delay + jitter[i] for i in kept]
    pairing = pair_events(causes, effects, 0.0, 5.0)
    assert [cause for cause, _ in pairing.pairs] == kept
    assert all(kept[effect] == cause for cause, effect in pairing.pairs)


def test_nothing_to_pair() -> None:
    assert pair_events([1.0], [], 0.0, 5.0).pairs == ()
    assert pair_events([], [1.0], 0.0, 5.0).delay_s is None


def test_percentiles() -> None:
    assert percentiles([]) is None
    assert percentiles([float(v) for v in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


# the report


def test_flow_counts_missing_pictures_and_stalls() -> None:
    media = [0.0, 0.04, 0.08, 0.20, 0.24]  # two pictures missing
    shown = flow(media, [1.0, 1.04, 1.08, 1.3, 1.24 + 0.1])
    assert (shown.frames, shown.gaps, shown.stalls) == (5, 2, 1)
    assert flow([], []).fps == 0.0


def test_skew_is_picture_minus_sound() -> None:
    clicks = [1.0, 2.1, 3.3]
    pictures = [c + 0.06 for c in clicks]  # their middle is 80 ms after the click
    result = skew(pictures, clicks, [p - 0.05 for p in pictures], [c if c > 1.5 else None for c in clicks])
    assert (result.arrival_ms, result.rtcp_ms, result.pairs) == (80.0, 30.0, 3)
    assert skew([], clicks, [], [None] * 3).arrival_ms is None


def test_delays_name_what_was_missed() -> None:
    times_ms, pairing = delays([1.0, 2.0, 3.1], [1.2, 3.3])
    assert np.allclose(times_ms, [200.0, 200.0])
    assert pairing.pairs == ((0, 0), (2, 1))


# receiving


class Packet:
    def __init__(self, number: int, timestamp: int, data: bytes, marker: int = 0) -> None:
        self.sequence_number, self.timestamp, self.marker, self._data = number, timestamp, marker, data


def test_a_picture_leaves_with_its_last_packet() -> None:
    buffer = PromptJitterBuffer(is_video=True)
    assert buffer.add(Packet(65_535, 9000, b"a"))[1] is None
    unit = buffer.add(Packet(0, 9000, b"b", marker=1))[1]
    assert unit is not None
    assert (unit.data, unit.timestamp, buffer.first_timestamp) == (b"ab", 9000, 9000)


def test_a_unit_came_when_its_first_packet_did(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 6.0])
    monkeypatch.setattr("clients.headless.receive.time.monotonic", lambda: next(times))
    buffer = PromptJitterBuffer(is_video=True)
    buffer.add(Packet(1, 9000, b"a"))
    buffer.add(Packet(2, 9000, b"b", marker=1))
    buffer.add(Packet(3, 12_600, b"c", marker=1))
    clock = SenderClock("video", buffer)
    assert (clock.came_s(0.0), clock.came_s(0.04), clock.came_s(0.08)) == (5.0, 6.0, None)


def test_a_picture_with_a_hole_waits_for_the_missing_packet() -> None:
    buffer = PromptJitterBuffer(is_video=True)
    assert buffer.add(Packet(10, 0, b"a", marker=1))[1] is not None
    assert buffer.add(Packet(12, 3600, b"c", marker=1))[1] is None
    buffer.add(Packet(11, 3600, b"b"))
    unit = buffer.add(Packet(13, 7200, b"d", marker=1))[1]
    assert unit is not None
    assert unit.data == b"bc"


def test_sound_leaves_packet_by_packet() -> None:
    buffer = PromptJitterBuffer(is_video=False)
    units = [buffer.add(Packet(n, n * 960, bytes([n])))[1] for n in range(5)]
    assert [u.data for u in units if u] == [bytes([n]) for n in range(5)]


def test_the_sender_clock_maps_media_time_to_ntp() -> None:
    buffer = PromptJitterBuffer(is_video=True)
    clock = SenderClock("video", buffer)
    assert clock.ntp_s(0.0) is None
    first = 2**32 - 45_000  # the RTP time stamp wraps half a second in
    buffer.add(Packet(1, first, b"a", marker=1))
    clock.report(1000 << 32, (first + 90_000) % 2**32)
    assert clock.ntp_s(1.0) == pytest.approx(1000.0)
    assert clock.ntp_s(0.5) == pytest.approx(999.5)


# sources


def test_any_sound_file_becomes_48_khz(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(1.0))
    samples = load_speech(str(path))
    assert abs(len(samples) - RATE) < 100
    assert 0.25 * 32767 < np.abs(samples.astype(np.int32)).max() < 0.35 * 32767


def test_what_is_no_sound_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(b"not a wave file at all")
    for path in (tmp_path / "missing.wav", tmp_path / "b.wav", write_wav(tmp_path / "c.wav", np.zeros(0))):
        with pytest.raises(BadArgument) as told:
            load_speech(str(path))
        assert "\n" not in str(told.value)


async def test_the_microphone_keeps_real_time_and_goes_on_in_silence() -> None:
    microphone = Microphone(np.full(960, 1000, np.int16))
    loop = asyncio.get_running_loop()
    started = loop.time()
    frames = [await microphone.recv() for _ in range(5)]
    assert loop.time() - started >= 0.099
    assert [f.pts for f in frames] == [0, 960, 1920, 2880, 3840]
    assert frames[0].to_ndarray().max() == 1000
    assert frames[4].to_ndarray().max() == 0
    assert microphone.captured_s(960) == pytest.approx(microphone.started_s + 0.02)


# calls


async def test_a_test_card_call_measures_delay_and_skew_and_records(tmp_path: Path) -> None:
    out = tmp_path / "rec.mp4"
    async with ReferencePeer(Plan(delay_s=0.2, skew_frames=3)) as peer:
        result = await command.talk(arguments(peer.url, "--testcard", "--seconds", "7", "--out", str(out)))
    assert result["frames"] > 100
    assert result["first_frame_ms"] > 0
    assert result["gaps"] <= 5
    # the picture is three frames late by construction; a loaded machine may add some
    assert 70 < result["av_skew_ms"] < 240
    assert 70 < result["av_skew_rtcp_ms"] < 240
    # never shorter than what the peer waits: a delay that is too good would be a wrong pairing
    assert 240 < result["audio_to_picture_ms"]["p50"] < 1500
    with av.open(str(out)) as container:
        assert {s.type for s in container.streams} == {"video", "audio"}
        assert sum(1 for _ in container.decode(video=0)) > 100


async def test_pushed_speech_comes_back(tmp_path: Path) -> None:
    wav = write_wav(tmp_path / "speech.wav", np.concatenate([np.zeros(4000), tone(1.5)]))
    async with ReferencePeer(Plan(delay_s=0.0)) as peer:
        result = await command.talk(
            arguments(peer.url, "--speech", str(wav), "--push", "--seconds", "3", "--actor", "x")
        )
    assert result["first_talking_ms"] is not None
    assert result["sound_s"] > 1.5
    assert result["av_skew_ms"] is None


async def test_a_full_server_is_an_error_with_its_code() -> None:
    async with ReferencePeer(Plan(max_sessions=0)) as peer:
        with pytest.raises(Refused) as told:
            await command.talk(arguments(peer.url, "--testcard"))
    assert told.value.code == "too_many_sessions"


async def test_an_actor_that_is_being_prepared_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.headless.call.ASK_AGAIN_S", 0.01)
    told: list[str] = []
    async with ReferencePeer(Plan(preparing=3)) as peer:
        async with Call(CallOptions(peer.url, on_wait=told.append)) as call:
            await call.first_picture()
        assert [line.partition(": ")[2] for line in told] == [
            f"{i} of 3 (actor_preparing)" for i in (1, 2, 3)
        ]
        assert call.observed.pictures[0].arrived_s > call.observed.offered_s
    monkeypatch.setattr("clients.headless.call.PREPARE_S", 0.02)
    async with ReferencePeer(Plan(preparing=1000)) as peer:
        with pytest.raises(Refused) as error:
            await command.talk(arguments(peer.url, "--testcard"))
    assert error.value.code == "actor_preparing"


async def test_a_vanishing_server_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.headless.call.STALL_S", 1.0)
    async with ReferencePeer(Plan(vanish_after_s=1.0)) as peer, Call(CallOptions(peer.url)) as call:
        await call.first_picture()
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(call.run(60.0), 20.0)


async def test_control_messages_and_closing_twice() -> None:
    async with ReferencePeer(Plan()) as peer:
        call = Call(CallOptions(peer.url))
        async with call:
            await call.first_picture()
            await call.push(np.zeros(4800, np.int16))
            call.send({"type": "ping", "t": 7})
            assert (await call.message("pong", 0.0, 10.0))["t"] == 7
        await call.close()


def run_command(*more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clients.headless", *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=False,
    )


def test_the_command_fails_in_one_line(tmp_path: Path) -> None:
    nobody = run_command("--url", "http://127.0.0.1:9", "--testcard", "--json")
    assert nobody.returncode == 3
    assert nobody.stdout == ""
    assert nobody.stderr.count("\n") == 1
    missing = run_command("--speech", str(tmp_path / "no.wav"))
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: ")
    assert run_command("--url", "ftp://x", "--testcard").returncode == 2
    neither = run_command()
    assert neither.returncode == 2
    assert "--testcard" in neither.stderr


def test_main_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fake_talk(_args: object) -> dict[str, object]:
        return {"fps": 25.0, "frames": 3}

    monkeypatch.setattr(command, "talk", fake_talk)
    assert command.main(["--testcard", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"fps": 25.0, "frames": 3}
    assert command.main(["--testcard"]) == 0
    assert "25.0" in capsys.readouterr().out
