"""One WebRTC connection: answers an offer, hears the microphone, carries speech, notices the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)

from mytalk.errors import BadInput
from server.conversation import Conversation
from server.rtc.listening import Listener
from server.rtc.setup import take_packets, use_own_encoder
from server.rtc.video_encoder import preferred_codecs
from server.signalling import Offer
from server.speech_socket import Message, SpeechChannel

logger = logging.getLogger(__name__)
CHANNEL_LABEL = "speech"
CLOSE_DEADLINE_S = 2.0
CHANNEL_BACKLOG_BYTES = 256 * 1024  # a data channel client that leaves more unread misses messages
AUDIO_CODECS = ("audio/opus",)


class Peer:
    """The connection of one conversation. ``on_gone`` is called once when the other side is lost for good.

    video_encoder: one of ``video_encoder.ENCODERS`` but ``auto``.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        stun: Sequence[str],
        video_encoder: str,
        connect_deadline_s: float,
        on_gone: Callable[[str], None],
    ) -> None:
        self._conversation = conversation
        self._video_encoder = video_encoder
        self._connect_deadline_s = connect_deadline_s
        self._on_gone = on_gone
        self._gone = False
        self._has_channel = False
        self._ear = Listener(conversation.hear, conversation.clock, conversation.id)
        conversation.microphone_stats = self._ear.stats
        self._deadline: asyncio.TimerHandle | None = None
        # An empty list, not None: aiortc's default asks a public server, and waits for it.
        servers = [RTCIceServer(urls=url) for url in stun]
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._connection.on("connectionstatechange", self._state_changed)
        self._connection.on("datachannel", self._channel_came)

    async def answer(self, offer: Offer) -> RTCSessionDescription:
        """Answer an offer; raises ``BadInput`` (``bad_sdp``) when aiortc cannot make sense of it."""
        connection = self._connection
        audio = connection.addTransceiver(self._conversation.audio, direction="sendrecv")
        video = connection.addTransceiver(self._conversation.video, direction="sendonly")
        # before setRemoteDescription: later it is ignored
        _prefer(audio, "audio", AUDIO_CODECS)
        _prefer(video, "video", preferred_codecs(self._video_encoder))
        take_packets(audio.receiver, self._ear.receive)
        try:
            await connection.setRemoteDescription(RTCSessionDescription(sdp=offer.sdp, type="offer"))
            answer = await connection.createAnswer()
            use_own_encoder(video, self._video_encoder)
            await connection.setLocalDescription(answer)
        except Exception as error:  # aiortc raises whatever a strange SDP runs it into
            logger.info("an offer could not be answered: %s: %s", type(error).__name__, error)
            raise BadInput(f"the offer cannot be answered ({error})", "bad_sdp") from error
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._connect_deadline_s, self._check_connected)
        return connection.localDescription

    async def close(self) -> None:
        """Hang up within a few seconds, whatever aiortc does; idempotent."""
        self._gone = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._ear.close()
        try:
            await asyncio.wait_for(self._connection.close(), CLOSE_DEADLINE_S)
        except Exception as error:
            # A sender whose RTCP task died never reports its end, and a half-built connection cannot close
            # itself: let go of what holds sockets and threads.
            logger.warning("a connection could not be closed (%r); its parts are stopped one by one", error)
            await self._stop_parts()

    async def _stop_parts(self) -> None:
        for transceiver in self._connection.getTransceivers():
            dtls = transceiver.receiver.transport
            transports = [] if dtls is None else [dtls.stop, dtls.transport.stop]
            for stop in (transceiver.receiver.stop, *transports):
                with contextlib.suppress(Exception):  # nothing more can be done for this part
                    await asyncio.wait_for(stop(), CLOSE_DEADLINE_S / 4)

    def _lost(self, why: str) -> None:
        if not self._gone:
            self._gone = True
            self._on_gone(why)

    def _check_connected(self) -> None:
        if self._connection.connectionState != "connected":
            self._lost("never connected")

    def _state_changed(self) -> None:
        state = self._connection.connectionState
        logger.debug("session %s: connection %s", self._conversation.id, state)
        if state == "connected":
            self._conversation.begin_media()
        elif state in ("failed", "closed"):
            self._lost(f"connection {state}")

    def _channel_came(self, channel: RTCDataChannel) -> None:
        if channel.label != CHANNEL_LABEL or self._has_channel:
            logger.info("session %s: data channel %r ignored", self._conversation.id, channel.label)
            return
        self._has_channel = True
        speech = SpeechChannel(self._conversation, self._conversation.clock)

        def send(message: Message) -> None:
            _send(channel, message)

        def take(message: Any) -> None:
            replies = speech.text(message) if isinstance(message, str) else speech.binary(message)
            for reply in replies:
                send(reply)

        channel.on("message", take)
        channel.on("close", lambda: self._conversation.remove_listener(send))
        self._conversation.add_listener(send)


def _send(channel: RTCDataChannel, message: Message) -> None:
    """Send unless the channel is closing or its client does not read."""
    if channel.readyState == "open" and channel.bufferedAmount < CHANNEL_BACKLOG_BYTES:
        with contextlib.suppress(ConnectionError):
            channel.send(json.dumps(message))


def _prefer(transceiver: RTCRtpTransceiver, kind: str, mime_types: Sequence[str]) -> None:
    """Offer only these codecs, the first ones first, with retransmission."""
    capabilities = RTCRtpSender.getCapabilities(kind).codecs
    wanted = [codec for mime in mime_types for codec in capabilities if codec.mimeType == mime]
    retransmission = [codec for codec in capabilities if codec.mimeType.lower() == f"{kind}/rtx"]
    transceiver.setCodecPreferences(wanted + retransmission)
