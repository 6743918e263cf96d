"""Which web pages may use the server: its own, and those of the origins that the settings name."""

from __future__ import annotations

import re
from collections.abc import Sequence

ANY = "*"
SAFE_METHODS = ("GET", "HEAD")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def is_origin(text: str) -> bool:
    """Whether ``text`` is what a browser may send as ``Origin``: scheme, host and port, no path; or ``*``."""
    return text == ANY or _ORIGIN.fullmatch(text) is not None


def is_same(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` came from the server that a request with this ``Host`` header reaches.

    The scheme is left out: behind a proxy the page is https and the server does not know.
    """
    scheme, separator, page = origin.lower().partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return False  # "null": a file, or a sandboxed frame
    return page.removesuffix(f":{_DEFAULT_PORTS[scheme]}") == host.lower().removesuffix(
        f":{_DEFAULT_PORTS[scheme]}"
    )


def is_allowed(origin: str | None, host: str, others: Sequence[str]) -> bool:
    """Whether a request may change something. origin: None where no web page asks (programs send none)."""
    if origin is None or is_same(origin, host):
        return True
    return ANY in others or origin.lower() in [other.lower() for other in others]


def answer_headers(origin: str | None, host: str, others: Sequence[str]) -> dict[str, str]:
    """What lets the page of another, allowed origin read the answer; nothing for all the rest."""
    if origin is None or is_same(origin, host) or not is_allowed(origin, host, others):
        return {}
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def preflight_headers() -> dict[str, str]:
    """What an allowed origin's page may send."""
    return {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": "600",
    }
