"""All sessions of the process: admission, look-up, and an end for each of them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from mytalk.errors import MyTalkError, Overloaded
from mytalk.session import TalkSession
from server.actors.cast import SharedRenderer
from server.actors.pool import ActorPool
from server.compute.overseer import Overseer
from server.compute.worker import Worker
from server.config import ServerConfig
from server.conversation import Conversation
from server.metrics import Metrics
from server.rtc.peer import Peer
from server.signalling import Offer

logger = logging.getLogger(__name__)
ANSWER_DEADLINE_S = 30.0  # reading an actor from disk included
ACTOR_PATIENCE_S = (
    8.0  # for an actor that is prepared for the first time; then the client is told to ask again
)


class TooManySessions(Overloaded):
    """Every place is taken."""

    code = "too_many_sessions"


class MachineBusy(Overloaded):
    """Another session would take more than the machine has."""

    code = "machine_busy"


class NoSuchSession(MyTalkError):
    """The session has ended or never was."""

    code = "unknown_session"


@dataclass
class _Session:
    """What belongs to one session; parts are None while it is being built."""

    renderer: SharedRenderer | None = None
    conversation: Conversation | None = None
    peer: Peer | None = None


class Sessions:
    """At most ``config.max_sessions``; one that is being built counts from before its first await."""

    def __init__(
        self,
        config: ServerConfig,
        actors: ActorPool,
        worker: Worker,
        metrics: Metrics,
        clock: Callable[[], float],
        overseer: Overseer | None = None,
        id_prefix: str = "",
    ) -> None:
        """overseer: refuses those who would not fit, and says how those who are here are served.

        id_prefix: begins every session id; tells the front of several processes whose a session is.
        """
        self._id_prefix = id_prefix
        self._config = config
        self._overseer = overseer
        self._actors = actors
        self._worker = worker
        self._metrics = metrics
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._shut = False

    def __len__(self) -> int:
        return len(self._sessions)

    def conversation(self, session_id: str) -> Conversation:
        """Look one up; raises ``NoSuchSession``."""
        session = self._sessions.get(session_id)
        if session is None or session.conversation is None:
            raise NoSuchSession(f"no session {session_id!r}")
        return session.conversation

    def conversations(self) -> list[Conversation]:
        """Those that are open."""
        return [s.conversation for s in self._sessions.values() if s.conversation is not None]

    async def open(self, offer: Offer, actor: str) -> tuple[str, str]:
        """Build a session for an offer; returns (session id, SDP answer).

        Raises ``Overloaded`` when there is no room, ``BadInput`` for what the offer asks, ``MyTalkError``
        when the actor cannot be loaded. What was built of a session that failed is taken down.
        """
        session_id = self._reserve()
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                sdp = await self._build(session_id, offer, actor)
        except TimeoutError as error:
            await self._close_now(session_id)
            raise Overloaded("the session could not be built in time") from error
        except BaseException:
            await self._close_now(session_id)
            raise
        if session_id not in self._sessions:
            raise Overloaded("the server is shutting down")
        self._metrics.sessions_started.inc()
        logger.info("session %s: %s, %d open", session_id, actor, len(self._sessions))
        return session_id, sdp

    def _reserve(self) -> str:
        if self._shut:
            raise Overloaded("the server is shutting down")
        if len(self._sessions) >= self._config.max_sessions:
            raise TooManySessions(f"all {self._config.max_sessions} sessions are taken")
        if self._overseer is not None and not self._config.admit_all:
            guests = self.conversations()
            why = self._overseer.refusal(guests, len(self._sessions) - len(guests))
            if why is not None:
                raise MachineBusy(f"no room for another session: {why}")
        session_id = self._id_prefix + secrets.token_urlsafe(12)
        self._sessions[session_id] = _Session()
        self._metrics.sessions.set(len(self._sessions))
        return session_id

    async def _build(self, session_id: str, offer: Offer, actor: str) -> str:
        session = self._sessions[session_id]
        renderer = session.renderer = await self._actors.take(actor, ACTOR_PATIENCE_S)
        talk = TalkSession(
            renderer.view,
            self._actors.cast.spec,
            renderer.initial_state(),
            self._config.session.turned(offer.hop, offer.lookahead, offer.steps),
            seed=secrets.randbits(62),
            now=self._clock(),
        )
        reel = self._actors.reel_of(renderer)
        conversation = Conversation(
            session_id, talk, renderer, self._worker, self._metrics, self._clock, reel
        )
        session.conversation = conversation
        if self._overseer is not None:
            conversation.degrade(self._overseer.level)
        session.peer = Peer(
            conversation,
            stun=self._config.stun,
            video_encoder=self._config.video_encoder,
            connect_deadline_s=self._config.connect_deadline_s,
            on_gone=lambda why: self.close_soon(session_id, why),
        )
        answer = await session.peer.answer(offer)
        conversation.start(on_failure=lambda why: self.close_soon(session_id, why))
        return str(answer.sdp)

    def close_soon(self, session_id: str, why: str) -> None:
        """Close a session from a callback."""
        if session_id in self._sessions:
            logger.info("session %s ends: %s", session_id, why)
            task = asyncio.create_task(self._close_now(session_id), name=f"close {session_id}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self, session_id: str) -> None:
        """Close a session; raises ``NoSuchSession``."""
        if session_id not in self._sessions:
            raise NoSuchSession(f"no session {session_id!r}")
        await self._close_now(session_id)

    async def _close_now(self, session_id: str) -> None:
        """Idempotent. The place is free at once; what the parts still do ends within seconds."""
        session = self._sessions.pop(session_id, None)
        self._metrics.sessions.set(len(self._sessions))
        if session is None:
            return
        try:
            if session.conversation is not None:
                await session.conversation.close()
        finally:
            try:
                if session.peer is not None:
                    await session.peer.close()
            finally:
                if session.renderer is not None:
                    self._actors.give_back(session.renderer)

    async def shut_down(self, deadline_s: float) -> None:
        """Refuse new sessions and close all within the deadline; idempotent."""
        self._shut = True
        for session_id in tuple(self._sessions):
            self.close_soon(session_id, "the server is shutting down")
        if self._closing:
            _, late = await asyncio.wait(self._closing, timeout=deadline_s)
            for task in late:
                task.cancel()
                logger.warning("%s did not end in time", task.get_name())
