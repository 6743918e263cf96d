"""Which web pages may use the server."""

from __future__ import annotations

import pytest

from server.origin import answer_headers, is_allowed, is_origin, is_same


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://localhost:8080", "127.0.0.1:8080", False),
        ("https://talk.example", "talk.example", True),
        ("https://talk.example", "talk.example:443", True),
        ("http://talk.example:80", "talk.example", True),
        ("HTTPS://Talk.Example", "talk.example", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("https://talk.example.evil.net", "talk.example", False),
        ("https://evil.net", "talk.example", False),
        ("http://talk.example:8081", "talk.example:8080", False),
        ("null", "talk.example", False),
        ("", "", False),
        ("file://", "", False),
    ],
)
def test_same(origin: str, host: str, same: bool) -> None:
    assert is_same(origin, host) == same
    assert is_allowed(origin, host, ()) == same


def test_programs_send_no_origin() -> None:
    assert is_allowed(None, "talk.example", ())
    assert answer_headers(None, "talk.example", ("*",)) == {}


def test_named_origins_may_and_can_read_the_answer() -> None:
    others = ("https://friend.example",)
    assert is_allowed("https://friend.example", "talk.example", others)
    assert not is_allowed("https://friend.example:8443", "talk.example", others)
    assert not is_allowed("null", "talk.example", others)
    assert is_allowed("null", "talk.example", ("*",))
    assert answer_headers("https://friend.example", "talk.example", others) == {
        "Access-Control-Allow-Origin": "https://friend.example",
        "Vary": "Origin",
    }
    assert answer_headers("https://evil.example", "talk.example", others) == {}
    assert answer_headers("https://talk.example", "talk.example", others) == {}


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("https://a.example", True),
        ("http://localhost:3000", True),
        ("*", True),
        ("a.example", False),
        ("https://a.example/", False),
        ("https://a.example/path", False),
        ("ftp://a.example", False),
    ],
)
def test_what_settings_may_name(text: str, good: bool) -> None:
    assert is_origin(text) == good
