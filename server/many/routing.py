"""Several servers behind one port: what each gets, how it lives, and which one a request goes to. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from server.config import ConfigError, ServerConfig
from server.rtc.udp_ports import PORTS_PER_SESSION, PortRange

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before an ended process is started again
STEADY_S = 60.0  # a process that served for so long starts anew with the first pause
_OWNER = re.compile(r"(\d{1,3})\.")


class State(Enum):
    """Of one process."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # it ended and will be started again
    STOPPED = "stopped"  # for good


NEXT = {
    State.STARTING: {State.RUNNING, State.WAITING, State.STOPPED},
    State.RUNNING: {State.WAITING, State.STOPPED},
    State.WAITING: {State.STARTING, State.STOPPED},
    State.STOPPED: {State.STOPPED},
}


@dataclass
class Member:
    """One process as the front sees it. url: where it serves, while it runs."""

    index: int
    max_sessions: int
    state: State = State.STARTING
    url: str = ""
    building: int = 0  # offers on their way to it
    sessions: int = 0  # as it last said
    preparing: Sequence[str] = field(default_factory=tuple)
    answers: bool = False  # whether it answered the last time it was asked

    def become(self, state: State) -> None:
        """Change the state; raises ``ValueError`` for what the table does not have."""
        if state not in NEXT[self.state]:
            raise ValueError(f"process {self.index} cannot go from {self.state.value} to {state.value}")
        self.state = state
        if state is not State.RUNNING:
            self.answers, self.sessions, self.preparing = False, 0, ()

    @property
    def is_running(self) -> bool:
        """Whether requests may be sent to it."""
        return self.state is State.RUNNING


def prefix_of(index: int) -> str:
    """What the ids of a process's sessions begin with, so that nobody need remember whose they are."""
    return f"{index}."


def owner_of(members: Sequence[Member], session_id: str) -> Member | None:
    """The running process that a session id belongs to."""
    found = _OWNER.match(session_id)
    index = int(found[1]) if found is not None else len(members)
    member = members[index] if index < len(members) else None
    return member if member is not None and member.is_running else None


def in_order(members: Sequence[Member], actor: str | None) -> list[Member]:
    """Running processes, the one to offer a session first at the front.

    One that is preparing the actor already comes first, so that the work is done once, then the emptiest;
    those that did not answer last.
    """

    def rank(member: Member) -> tuple[bool, bool, int, int]:
        prepares = actor is not None and actor in member.preparing
        return not member.answers, not prepares, member.sessions + member.building, member.index

    return sorted((member for member in members if member.is_running), key=rank)


def pause_s(failures: int) -> float:
    """How long to wait before a process is started again after so many failures in a row (1, 2, …)."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures - 1, 16)))


def shares(config: ServerConfig) -> list[ServerConfig]:
    """The settings of each process: sessions and UDP ports are divided, all the rest is the same.

    Raises ``ConfigError`` when there are fewer sessions than processes.
    """
    if config.processes > config.max_sessions:
        raise ConfigError(
            f"processes: {config.processes} processes share {config.max_sessions} sessions;"
            " raise --max-sessions to one for each at least"
        )
    count, ports, low = config.processes, config.udp_ports, 0
    spare = 0 if ports is None else len(ports) - PORTS_PER_SESSION * config.max_sessions
    found = []
    for index in range(count):
        sessions = _part(config.max_sessions, count, index)
        part = None
        if ports is not None:
            size = PORTS_PER_SESSION * sessions + _part(spare, count, index)
            part = PortRange(ports.low + low, ports.low + low + size - 1)
            low += size
        found.append(dataclasses.replace(config, max_sessions=sessions, udp_ports=part))
    return found


def _part(total: int, count: int, index: int) -> int:
    return total // count + (index < total % count)
