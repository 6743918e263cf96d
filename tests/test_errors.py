"""Errors carry a stable code and a one-line message."""

from __future__ import annotations

import pytest

from mytalk.errors import BadInput, EngineFailed, MyTalkError, Overloaded, SessionClosed


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MyTalkError("x"), "error"),
        (BadInput("x"), "bad_input"),
        (EngineFailed("x"), "engine_failed"),
        (SessionClosed("x"), "session_closed"),
        (Overloaded("x"), "overloaded"),
    ],
)
def test_code_is_stable(error: MyTalkError, code: str) -> None:
    assert error.code == code
    assert str(error) == "x"


@pytest.mark.parametrize("kind", [BadInput, EngineFailed, SessionClosed, Overloaded])
def test_one_except_clause_catches_all(kind: type[MyTalkError]) -> None:
    with pytest.raises(MyTalkError):
        raise kind("x")


def test_bad_input_can_name_what_is_bad_without_changing_the_class() -> None:
    assert BadInput("no such actor", code="unknown_actor").code == "unknown_actor"
    assert BadInput.code == "bad_input"
    assert BadInput("another").code == "bad_input"
