"""Which process gets what: shares of the settings, states, the order of offers, session ids."""

from __future__ import annotations

import pytest

from server.config import ConfigError, ServerConfig
from server.many.routing import NEXT, Member, State, in_order, owner_of, pause_s, prefix_of, shares
from server.rtc.udp_ports import PORTS_PER_SESSION, parse_ports


def members(*sessions: int) -> list[Member]:
    return [
        Member(index, 4, State.RUNNING, sessions=count, answers=True) for index, count in enumerate(sessions)
    ]


def indices(found: list[Member]) -> list[int]:
    return [member.index for member in found]


@pytest.mark.parametrize(("count", "sessions"), [(2, 5), (3, 3), (4, 11), (1, 4)])
def test_sessions_and_ports_are_divided_without_rest_and_overlap(count: int, sessions: int) -> None:
    ports = parse_ports("50000-50031")
    found = shares(ServerConfig(processes=count, max_sessions=sessions, udp_ports=ports, token="secret"))
    assert sum(part.max_sessions for part in found) == sessions
    assert max(part.max_sessions for part in found) - min(part.max_sessions for part in found) <= 1
    every = [
        port
        for part in found
        if part.udp_ports
        for port in range(part.udp_ports.low, part.udp_ports.high + 1)
    ]
    assert every == list(range(50000, 50032))
    for part in found:
        assert part.udp_ports is not None
        assert len(part.udp_ports) >= PORTS_PER_SESSION * part.max_sessions
        assert (part.token, part.processes) == ("secret", count)


def test_fewer_sessions_than_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 processes share 2 sessions"):
        shares(ServerConfig(processes=3, max_sessions=2))
    for wrong in (0, 65):
        with pytest.raises(ConfigError, match="processes must be"):
            ServerConfig(processes=wrong)


def test_several_processes_take_no_uploads_and_say_so() -> None:
    assert ServerConfig().why_no_uploads is None
    assert "several processes" in (ServerConfig(processes=2).why_no_uploads or "")


def test_the_emptiest_comes_first_and_offers_on_their_way_count() -> None:
    found = members(2, 1, 1)
    assert indices(in_order(found, None)) == [1, 2, 0]
    found[1].building = 2
    assert indices(in_order(found, None)) == [2, 0, 1]


def test_who_prepares_the_actor_already_comes_first_and_the_silent_last() -> None:
    found = members(3, 0, 1)
    found[0].preparing = ["bob"]
    assert indices(in_order(found, "bob")) == [0, 1, 2]
    assert indices(in_order(found, "ada")) == [1, 2, 0]
    found[1].answers = False
    assert indices(in_order(found, None)) == [2, 0, 1]


def test_only_running_processes_are_asked_and_own_sessions() -> None:
    found = members(0, 0)
    assert owner_of(found, prefix_of(1) + "abc") is found[1]
    found[1].become(State.WAITING)
    assert owner_of(found, prefix_of(1) + "abc") is None
    assert indices(in_order(found, None)) == [0]
    for strange in ("", "abc", "7.abc", "-1.abc", "1", ".abc", "9999.x", "١.abc"):
        assert owner_of(found, strange) is None


def test_states_change_by_the_table_only() -> None:
    for before in State:
        for after in State:
            member = Member(0, 1, before)
            if after in NEXT[before]:
                member.become(after)
                assert member.state is after
            else:
                with pytest.raises(ValueError, match="cannot go from"):
                    member.become(after)


def test_an_ended_process_has_no_sessions() -> None:
    (member,) = members(3)
    member.become(State.WAITING)
    assert (member.sessions, member.answers) == (0, False)


def test_pauses_grow_to_a_limit() -> None:
    assert [pause_s(failures) for failures in (1, 2, 3, 7, 10_000)] == [0.5, 1.0, 2.0, 30.0, 30.0]
