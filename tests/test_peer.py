"""A real aiortc client against the server: pictures come, speech is heard, who leaves is noticed."""

from __future__ import annotations

import asyncio
import fractions
import json

import aiohttp
import av
import numpy as np
from aiortc import MediaStreamTrack

from tests.fakes import voice
from tests.server_fakes import FakeCast, calling, running


class VoiceTrack(MediaStreamTrack):
    """A microphone that says the same two seconds for ever, in real time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.samples = voice(2.0)
        self.packet = 0
        self.start: float | None = None

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        self.start = self.start or loop.time()
        await asyncio.sleep(self.start + self.packet * 0.02 - loop.time())
        first = self.packet * 960 % len(self.samples)
        frame = av.AudioFrame.from_ndarray(
            self.samples[None, first : first + 960], format="s16", layout="mono"
        )
        frame.sample_rate = 48_000
        frame.pts = self.packet * 960
        frame.time_base = fractions.Fraction(1, 48_000)
        self.packet += 1
        return frame


async def test_25_pictures_a_second_come_with_their_sound() -> None:
    async with running() as url, calling(url) as client:
        await client.until(lambda: len(client.pictures) > 5 and len(client.sounds) > 5)
        await asyncio.sleep(3.0)
        arrived, media, _ = np.array(client.pictures).T
        # a busy machine may drop a picture, but never shifts one: media time keeps pace with the wall clock
        steps = np.diff(media) / 0.04
        np.testing.assert_allclose(steps, steps.round(), atol=1e-6)
        assert (steps.round() == 1).mean() > 0.7
        assert abs((arrived[-1] - arrived[0]) - (media[-1] - media[0])) < 0.3
        sound = np.array([media_s for _, media_s, _ in client.sounds])
        np.testing.assert_allclose(np.diff(sound), 0.02, atol=1e-6)
        stats = client.told("stats")
        assert 20 <= stats[-1]["fps"] <= 30
        assert stats[-1]["session_id"] == client.session_id


async def test_speech_pushed_over_the_data_channel_is_said_and_seen() -> None:
    async with running() as url, calling(url) as client:
        await client.until(lambda: len(client.pictures) > 5)
        client.push(voice(1.0, 24_000), 24_000)
        await client.until(lambda: client.told("speech_ended"))
        await asyncio.sleep(0.5)
        (ended,) = client.told("speech_ended")
        assert ended["played_samples"] == 48_000
        assert len(client.told("speech_started")) == 1
        progress = client.told("progress")
        assert {m["utterance"] for m in progress} == {0}
        assert progress[0]["room_s"] > 100
        played = [m["played_samples"] for m in progress]
        assert played == sorted(played)
        assert all(n % 1_920 == 0 or n == 48_000 for n in played)
        # the mouth opened and closed, and the voice was heard while it did
        bright = [arrival for arrival, _, brightness in client.pictures if brightness > 70]
        loud = [arrival for arrival, _, peak in client.sounds if peak > 2000]
        assert len(bright) > 15
        assert 0.8 < loud[-1] - loud[0] < 1.2
        assert abs(bright[0] - loud[0]) < 0.2
        assert client.pictures[-1][2] < 40
        assert client.told("buffer")[-1]["position"] == 24_000
        assert not client.told("error")


async def test_the_microphone_is_said_back() -> None:
    async with running() as url, calling(url, VoiceTrack()) as client:
        await client.until(lambda: client.told("speech_started"))
        await client.until(lambda: sum(peak > 2000 for _, _, peak in client.sounds) > 50)
        await client.until(lambda: any(brightness > 70 for _, _, brightness in client.pictures))
        await client.until(lambda: client.told("stats") and client.told("stats")[-1]["latency_ms"])
        assert client.told("stats")[-1]["latency_ms"] < 5000


async def test_interrupt_stops_the_voice_at_once() -> None:
    async with running() as url, calling(url) as client:
        client.push(voice(10.0, 24_000), 24_000)
        await client.until(lambda: client.told("speech_started"))
        await asyncio.sleep(1.0)
        client.say({"type": "interrupt"})
        await client.until(lambda: client.told("interrupted"))
        assert 0.3 * 48_000 < client.told("interrupted")[0]["played_samples"] < 8.0 * 48_000
        await asyncio.sleep(1.0)
        heard = len([1 for _, _, peak in client.sounds if peak > 2000])
        await asyncio.sleep(0.5)
        assert len([1 for _, _, peak in client.sounds if peak > 2000]) == heard
        assert client.told("buffer")[-1]["queued_s"] == 0.0


async def test_bad_messages_on_the_channel_are_answered_and_the_session_goes_on() -> None:
    async with running() as url, calling(url) as client:
        client.channel.send("{")
        client.channel.send(b"\1\2")
        client.say({"type": "ping", "t": 5})
        await client.until(lambda: client.told("pong"))
        assert [message["code"] for message in client.told("error")] == ["bad_json", "not_started"]
        client.push(voice(0.3, 24_000), 24_000)
        await client.until(lambda: client.told("speech_ended"))


async def test_an_engine_that_fails_leaves_sound_and_pictures_running() -> None:
    cast = FakeCast()
    async with running(cast) as url, calling(url) as client:
        cast.renderers["ada"].broken = True
        client.push(voice(0.5, 24_000), 24_000)
        await client.until(lambda: client.told("job_failed"))
        await client.until(lambda: client.told("speech_ended"), 15)
        assert client.told("speech_ended")[0]["played_samples"] == 24_000
        cast.renderers["ada"].broken = False
        count = len(client.pictures)
        await client.until(lambda: len(client.pictures) > count + 10)


async def sessions_open(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/healthz") as response:
        return int((await response.json())["sessions"])


async def test_a_client_that_hangs_up_frees_its_place() -> None:
    async with running() as url:
        async with calling(url):
            assert await sessions_open(url) == 1
        async with asyncio.timeout(5):
            while await sessions_open(url):
                await asyncio.sleep(0.05)


async def test_a_client_that_vanishes_frees_its_place_and_others_go_on() -> None:
    async with running(vanish_after_s=1.5) as url, calling(url) as stays, calling(url) as goes:
        await goes.until(lambda: goes.pictures)
        # as if its machine was switched off: no goodbye, nothing answered
        for transceiver in goes.pc.getTransceivers():
            ice = transceiver.receiver.transport.transport._connection
            for protocol in ice._protocols:
                protocol.transport.abort()
        async with asyncio.timeout(10):
            while await sessions_open(url) > 1:
                await asyncio.sleep(0.05)
        count = len(stays.pictures)
        await stays.until(lambda: len(stays.pictures) > count + 10)


async def test_a_client_that_never_connects_is_given_up() -> None:
    async with running(connect_deadline_s=0.3) as url, aiohttp.ClientSession() as http:
        body = json.dumps({"sdp": await an_offer(), "type": "offer"})
        async with http.post(f"{url}/offer", data=body) as response:
            assert response.status == 200
        assert await sessions_open(url) == 1
        async with asyncio.timeout(5):
            while await sessions_open(url):
                await asyncio.sleep(0.05)


async def an_offer() -> str:
    """The SDP of a client that then does nothing."""
    from aiortc import RTCConfiguration, RTCPeerConnection

    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    pc.addTransceiver("audio", direction="recvonly")
    pc.addTransceiver("video", direction="recvonly")
    await pc.setLocalDescription(await pc.createOffer())
    text = str(pc.localDescription.sdp)
    await pc.close()
    return text


async def test_a_viewer_of_the_shared_idle_loop_sees_the_mouth_open_and_close() -> None:
    """The loop was encoded before anybody came; its pictures are black, talking ones are brighter."""
    async with running() as url, calling(url) as client:
        await client.until(lambda: len(client.pictures) > 60)
        assert max(level for _, _, level in client.pictures) < 20
        client.push(voice(1.0, 24_000), 24_000)
        await client.until(lambda: client.told("speech_ended"))
        spoken = len(client.pictures)
        assert max(level for _, _, level in client.pictures) > 70
        await client.until(
            lambda: len(client.pictures) > spoken + 90
        )  # the tail closes the mouth; then back on the loop
        assert max(level for _, _, level in client.pictures[spoken + 30 :]) < 20
        steps = np.diff([media_s for _, media_s, _ in client.pictures]) / 0.04
        np.testing.assert_allclose(steps, steps.round(), atol=1e-6)
