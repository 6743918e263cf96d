"""The states of a session and every legal move between them."""

from __future__ import annotations

from enum import Enum, auto


class State(Enum):
    """Where a session stands; IDLE, BUFFERING (speech is here, none plays), SPEAKING, ENDING (tail), ..."""

    IDLE = auto()
    BUFFERING = auto()
    SPEAKING = auto()
    ENDING = auto()
    CLOSING_MOUTH = auto()
    CLOSED = auto()


class Change(Enum):
    """What can move a session from one state to another."""

    QUEUED = auto()  # an utterance waits to be played
    STARTED = auto()  # its next slice is ready to leave
    STARVED = auto()  # its next speech is not here in time
    ALL_SPOKEN = auto()  # its last sample has left; the tail follows
    MOUTH_OPEN = auto()  # nothing more will be said and the mouth is open
    MOUTH_CLOSED = auto()
    CLOSE = auto()


TRANSITIONS: dict[tuple[State, Change], State] = {
    (State.IDLE, Change.QUEUED): State.BUFFERING,
    (State.BUFFERING, Change.STARTED): State.SPEAKING,
    (State.BUFFERING, Change.MOUTH_OPEN): State.CLOSING_MOUTH,
    (State.BUFFERING, Change.MOUTH_CLOSED): State.IDLE,
    (State.SPEAKING, Change.STARVED): State.BUFFERING,
    (State.SPEAKING, Change.ALL_SPOKEN): State.ENDING,
    (State.SPEAKING, Change.MOUTH_OPEN): State.CLOSING_MOUTH,
    (State.SPEAKING, Change.MOUTH_CLOSED): State.IDLE,
    (State.ENDING, Change.MOUTH_OPEN): State.CLOSING_MOUTH,
    (State.ENDING, Change.MOUTH_CLOSED): State.IDLE,
    (State.CLOSING_MOUTH, Change.MOUTH_OPEN): State.CLOSING_MOUTH,
    (State.CLOSING_MOUTH, Change.MOUTH_CLOSED): State.IDLE,
    (State.IDLE, Change.CLOSE): State.CLOSED,
    (State.BUFFERING, Change.CLOSE): State.CLOSED,
    (State.SPEAKING, Change.CLOSE): State.CLOSED,
    (State.ENDING, Change.CLOSE): State.CLOSED,
    (State.CLOSING_MOUTH, Change.CLOSE): State.CLOSED,
}
